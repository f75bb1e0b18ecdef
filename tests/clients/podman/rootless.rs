//! Podman used by an ordinary user.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nacre_tests::nacre::is_reference;
use nacre_tests::user::{FIRST, ID, User};
use nacre_tests::{Case, Isolation};

use super::super::image::{self, BUSYBOX};
use super::Podman;

nacre_tests::tests![
    a_life,
    its_own_id,
    network,
    a_pod: Process,
    limits_by_the_users_systemd: Process,
];

/// Ends when it is told to.
const SCRIPT: &str = "echo started; trap 'exit 5' TERM; while :; do sleep 0.05; done";

impl<'a> Podman<'a> {
    /// Sets up a user's Podman with the busybox image.
    fn of(case: &'a Case, user: User<'a>, manager: &str) -> Self {
        Self::configure(case, manager);
        let podman = Self {
            user: Some(user),
            driver: "vfs",
            ..Self::of_case(case)
        };
        fs::create_dir(podman.sockets()).unwrap();
        podman.user().give(&podman.sockets());
        podman.check();
        podman.import(&image::busybox(case), BUSYBOX);
        podman
    }

    /// Returns its user.
    fn user(&self) -> &User<'a> {
        self.user.as_ref().unwrap()
    }

    /// Runs `podman run --rm` with flags and a script.
    fn runs(&self, flags: &[&str], script: &str) -> String {
        let words = [BUSYBOX, "sh", "-c", script];
        self.ok(&[&["run", "--rm"], flags, &words].concat())
    }

    /// Runs `podman run --detach` with flags, as `c`.
    fn leaves(&self, flags: &[&str]) {
        let run = ["run", "--detach", "--name", "c"];
        self.ok(&[&run, flags, &[BUSYBOX, "sh", "-c", SCRIPT]].concat());
        self.wait_for_log("started");
    }
}

fn a_life(case: &Case) {
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let data = podman.user().home().join("data");
    fs::create_dir(&data).unwrap();
    podman.user().give(&data);
    podman.leaves(&["-v", &format!("{}:/data", data.display())]);
    if !is_reference() {
        let state = podman.user().runtime().join("nacre");
        assert!(state.join(podman.inspect("{{.Id}}")).is_dir());
    }
    let script = "id -u; touch /data/roots; chown 7:8 /data/roots; exit 3";
    let outcome = podman.run(&["exec", "c", "sh", "-c", script]);
    assert_eq!(outcome.expect(3), "0\n");
    let made = fs::metadata(data.join("roots")).unwrap();
    assert_eq!((made.uid(), made.gid()), (FIRST + 6, FIRST + 7));
    let as_another = ["exec", "--user", "7:8", "c", "sh", "-c", "id -u; id -g"];
    assert_eq!(podman.ok(&as_another), "7\n8\n");
    podman.ok(&["stop", "c"]);
    assert_eq!(podman.inspect("{{.State.ExitCode}}"), "5");
    podman.ok(&["start", "c"]);
    podman.wait_for_log("started\nstarted");
    podman.ok(&["kill", "c"]);
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    if case.isolation() == Isolation::Process {
        // It has the host's network, whose /sys such a user can't mount.
        let output = podman.runs(
            &["--network", "host"],
            "ls /sys/class/net; echo x >/dev/null",
        );
        assert!(output.contains("lo\n"), "{output}");
    }
    podman.clear();
}

/// slirp4netns carries what comes and goes, published ports too.
fn network(case: &Case) {
    case.needs("slirp4netns", "slirp4netns");
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outside = listener.local_addr().unwrap().port();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let network = "slirp4netns:port_handler=slirp4netns,allow_host_loopback=true";
    let published = format!("127.0.0.1:{port}:8080");
    let script = format!(
        "echo from inside | nc 10.0.2.2 {outside}; echo started
         while :; do echo served | nc -l -p 8080; done"
    );
    let run = ["run", "--detach", "--name", "c", "--network", network];
    let rest = ["-p", &published, BUSYBOX, "sh", "-c", &script];
    podman.ok(&[&run[..], &rest].concat());
    let (mut connection, _) = listener.accept().unwrap();
    let mut line = String::new();
    BufReader::new(&mut connection)
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "from inside\n");
    drop(connection);
    podman.wait_for_log("started");
    case.wait_for("the published port", || {
        let mut said = String::new();
        let connected = TcpStream::connect(("127.0.0.1", port));
        let read = connected.and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.read_to_string(&mut said)
        });
        read.is_ok() && said == "served\n"
    });
    podman.clear();
}

/// `--userns=keep-id`: the user is the same inside as outside.
fn its_own_id(case: &Case) {
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let data = podman.user().home().join("data");
    fs::create_dir(&data).unwrap();
    podman.user().give(&data);
    let volume = format!("{}:/data", data.display());
    let flags = ["--userns=keep-id", "-v", &*volume];
    let output = podman.runs(&flags, "id -u; touch /data/own; stat -c %u /data/own");
    assert_eq!(output, format!("{ID}\n{ID}\n"));
    assert_eq!(fs::metadata(data.join("own")).unwrap().uid(), ID);
    let as_root = [&flags[..], &["--user", "0"]].concat();
    podman.runs(&as_root, "touch /data/roots");
    assert_eq!(fs::metadata(data.join("roots")).unwrap().uid(), FIRST);
    podman.clear();
}

fn a_pod(case: &Case) {
    case.needs("catatonit", "catatonit");
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let shared = "net,ipc,uts,pid";
    podman.ok(&[
        "pod",
        "create",
        "--name",
        "p",
        "--network",
        "none",
        "--share",
        shared,
    ]);
    podman.leaves(&["--pod", "p"]);
    let output = podman.runs(&["--pod", "p"], "hostname; ls /sys/class/net; ps");
    assert!(
        output.starts_with("p\nlo\n") && output.contains("echo started"),
        "{output}"
    );
    assert_eq!(podman.ok(&["exec", "c", "hostname"]), "p\n");
    podman.ok(&["pod", "rm", "--force", "--time", "0", "p"]);
    podman.clear();
}

fn limits_by_the_users_systemd(case: &Case) {
    let podman = Podman::of(case, User::with_systemd(case), "systemd");
    let run = [
        "run",
        "--detach",
        "--name",
        "c",
        "--memory",
        "64m",
        "--pids-limit",
        "20",
    ];
    let id = podman.ok(&[&run[..], &[BUSYBOX, "sleep", "1000"]].concat());
    let shows = [
        "exec",
        "c",
        "cat",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/pids.max",
    ];
    assert_eq!(podman.ok(&shows), "67108864\n20\n");
    let property = |name: &str| {
        let scope = format!("libpod-{}.scope", id.trim_end());
        let mut asks = podman.user().command("systemctl");
        asks.args(["--user", "show", "--value", "--property", name, &scope]);
        let asks = case.spawn(podman.user().enter(&asks));
        asks.finish().expect(0).trim_end().to_owned()
    };
    assert_eq!(property("TasksMax"), "20");
    podman.ok(&["update", "--memory", "96m", "c"]);
    assert_eq!(podman.ok(&shows), "100663296\n20\n");
    podman.clear();
    case.wait_for("the end of the scope", || {
        property("LoadState") == "not-found"
    });
}
