//! Podman used by an ordinary user.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nacre_tests::nacre::is_reference;
use nacre_tests::user::{FIRST, ID, User};
use nacre_tests::{Case, Isolation};

use super::super::image::{self, BUSYBOX};
use super::super::workload::{TALKS, talk};
use super::Podman;
use super::life::{ITS_SIZE, at_a_terminal};

nacre_tests::tests![
    a_volume_exec_and_stop,
    started_again_and_killed,
    the_hosts_network: Process,
    its_own_id,
    terminals,
    copies_in_and_out,
    a_volume_given_to_the_containers_user,
    owners_with_its_own_id,
    network,
    a_pod: Process,
    privileges: Vm,
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
        fs::create_dir(podman.short()).unwrap();
        podman.user().give(&podman.short());
        podman.check();
        podman.import(&image::busybox(case), BUSYBOX);
        podman
    }

    /// Returns its user.
    fn user(&self) -> &User<'a> {
        self.user.as_ref().unwrap()
    }

    /// Makes a directory of the user's.
    fn directory(&self, name: &str) -> PathBuf {
        let directory = self.user().home().join(name);
        fs::create_dir(&directory).unwrap();
        self.user().give(&directory);
        directory
    }

    /// Runs a script in the container `c`, which must succeed.
    #[track_caller]
    fn says(&self, script: &str) -> String {
        self.ok(&["exec", "c", "sh", "-c", script])
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

fn a_volume_exec_and_stop(case: &Case) {
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let data = podman.directory("data");
    podman.leaves(&["-v", &format!("{}:/data", data.display())]);
    if !is_reference() {
        let state = podman.user().runtime().join("nacre");
        assert!(state.join(podman.inspect("{{.Id}}")).is_dir());
    }
    let script = "id -u; touch /data/roots; chown 7:8 /data/roots; exit 3";
    let outcome = podman.run(&["exec", "c", "sh", "-c", script]);
    assert_eq!(outcome.expect(3), "0\n");
    assert_eq!(owner(&data.join("roots")), (FIRST + 6, FIRST + 7));
    podman.ok(&["stop", "c"]);
    assert_eq!(podman.inspect("{{.State.ExitCode}}"), "5");
    podman.clear();
}

fn started_again_and_killed(case: &Case) {
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    podman.leaves(&[]);
    let as_another = ["exec", "--user", "7:8", "c", "sh", "-c", "id -u; id -g"];
    assert_eq!(podman.ok(&as_another), "7\n8\n");
    podman.ok(&["stop", "c"]);
    podman.ok(&["start", "c"]);
    podman.wait_for_log("started\nstarted");
    podman.ok(&["kill", "c"]);
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    podman.clear();
}

/// Such a user can't mount the /sys of the host's network.
fn the_hosts_network(case: &Case) {
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let script = "ls /sys/class/net; echo x >/dev/null";
    let output = podman.runs(&["--network", "host"], script);
    assert!(output.contains("lo\n"), "{output}");
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
    let data = podman.directory("data");
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

/// Podman binds the host's devices for a user who isn't root, each as a mount.
fn privileges(case: &Case) {
    if !Path::new("/dev/fuse").exists() {
        case.ignore("no /dev/fuse here, which every container may be given");
    }
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let refused = podman.run(&["run", "--rm", "--privileged", BUSYBOX, "true"]);
    refused.expect(126);
    for message in ["is a device of the host", "--cap-add=all"] {
        assert!(refused.stderr.contains(message), "{refused:?}");
    }
    let flags = [
        "--cap-add=all",
        "--security-opt=seccomp=unconfined",
        "--security-opt=unmask=all",
        "--device=/dev/fuse",
    ];
    let script = "mount -t tmpfs t /tmp; mount -t proc p /tmp; echo 1 >/tmp/sys/vm/drop_caches
                  grep ^Seccomp: /proc/self/status; : <>/dev/fuse && echo opened";
    assert_eq!(podman.runs(&flags, script), "Seccomp:\t0\nopened\n");
    podman.clear();
}

/// At a container's own terminal, and at that of a process that `exec` starts.
fn terminals(case: &Case) {
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let run = ["run", "--rm", "-it", BUSYBOX, "sh", "-c"];
    let output = at_a_terminal(case, &podman.command(&[&run[..], &[ITS_SIZE]].concat()));
    assert!(
        output.contains("/dev/pts/0\n") && output.contains("30 90\n"),
        "{output}"
    );
    let typed = podman.command(&[&run[..], &[TALKS]].concat());
    talk(case, &typed, "/dev/pts/0");
    podman.leaves(&["-t"]);
    let exec = ["exec", "-it", "c", "sh", "-c"];
    let output = at_a_terminal(case, &podman.command(&[&exec[..], &[ITS_SIZE]].concat()));
    assert!(
        output.contains("/dev/pts/1\n") && output.contains("30 90\n"),
        "{output}"
    );
    let typed = podman.command(&[&exec[..], &[TALKS]].concat());
    talk(case, &typed, "/dev/pts/1");
    podman.clear();
}

/// Of a container that runs, and of one that has ended.
fn copies_in_and_out(case: &Case) {
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let data = podman.directory("data");
    let files = podman.directory("files");
    let place = |name: &str| files.join(name).to_str().unwrap().to_owned();
    fs::write(place("file"), "sent").unwrap();
    podman.user().give(&files);
    let volume = format!("{}:/data", data.display());
    podman.leaves(&["-v", &volume, "--tmpfs", "/scratch"]);
    podman.says("mkdir /tree; echo made >/tree/made; chown 7:8 /tree/made; echo x >/scratch/x");
    podman.ok(&["cp", &place("file"), "c:/tree/sent"]);
    podman.ok(&["cp", &place("file"), "c:/data/sent"]);
    let script = "cat /tree/sent /data/sent; stat -c ' %u %g' /tree/sent /data/sent";
    assert_eq!(podman.says(script), "sentsent 0 0\n 0 0\n");
    assert_eq!(owner(&data.join("sent")), (ID, ID));
    podman.ok(&["cp", "c:/tree", &place("tree")]);
    podman.ok(&["cp", "c:/data/sent", &place("back")]);
    assert_eq!(fs::read_to_string(place("tree/made")).unwrap(), "made\n");
    assert_eq!(fs::read_to_string(place("back")).unwrap(), "sent");
    assert_eq!(owner(Path::new(&place("back"))), (ID, ID));
    if case.isolation() == Isolation::Vm {
        // What is in the guest alone can't be reached, and what lies below isn't reached instead.
        for (from, to) in [
            (place("file"), "c:/scratch/new".to_owned()),
            ("c:/scratch/x".to_owned(), place("x")),
        ] {
            podman.run(&["cp", &from, &to]).refused_somehow();
        }
        assert!(!Path::new(&place("x")).exists());
        assert_eq!(podman.says("ls /scratch"), "x\n");
    }

    podman.ok(&["stop", "c"]);
    podman.ok(&["cp", &place("file"), "c:/tree/later"]);
    podman.ok(&["cp", "c:/tree/made", &place("made")]);
    assert_eq!(fs::read_to_string(place("made")).unwrap(), "made\n");
    podman.ok(&["start", "c"]);
    podman.wait_for_log("started\nstarted");
    assert_eq!(podman.says("cat /tree/later"), "sent");
    podman.clear();
}

/// Podman's `:U` changes the owners of all that is in a volume.
fn a_volume_given_to_the_containers_user(case: &Case) {
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let data = podman.directory("data");
    fs::write(data.join("file"), "").unwrap();
    podman.user().give(&data);
    let volume = format!("{}:/data:U", data.display());
    let output = podman.runs(
        &["--user", "7:8", "-v", &volume],
        "stat -c '%u %g' /data /data/file; touch /data/own",
    );
    assert_eq!(output, "7 8\n7 8\n");
    for name in [".", "file", "own"] {
        assert_eq!(owner(&data.join(name)), (FIRST + 6, FIRST + 7), "{name}");
    }
    let output = podman.runs(
        &["--userns=keep-id", "-v", &volume],
        "stat -c '%u %g' /data /data/file; touch /data/another",
    );
    assert_eq!(output, format!("{ID} {ID}\n{ID} {ID}\n"));
    for name in [".", "file", "own", "another"] {
        assert_eq!(owner(&data.join(name)), (ID, ID), "{name}");
    }
    // A volume of Podman's own.
    let output = podman.runs(
        &["--user", "7:8", "-v", "kept:/data:U"],
        "stat -c '%u %g' /data; touch /data/own; stat -c '%u %g' /data/own",
    );
    assert_eq!(output, "7 8\n7 8\n");
    podman.ok(&["volume", "rm", "kept"]);
    podman.clear();
}

/// Of files in a volume, with `--userns=keep-id`: the ids below the user's are those that the user was
/// given, from the first on.
fn owners_with_its_own_id(case: &Case) {
    let podman = Podman::of(case, User::new(case), "cgroupfs");
    let data = podman.directory("data");
    for (name, user, group) in [
        ("own", ID, ID),
        ("given", FIRST + 4, FIRST + 5),
        ("roots", 0, 0),
    ] {
        fs::write(data.join(name), "").unwrap();
        lchown(data.join(name), Some(user), Some(group)).unwrap();
    }
    let volume = format!("{}:/data", data.display());
    podman.leaves(&["--userns=keep-id", "-v", &volume]);
    let own = format!("{ID} {ID}\n");
    let script = "cd /data; stat -c '%u %g' . own given roots; touch made; stat -c '%u %g' made
                  chown 0:0 own given 2>/dev/null; stat -c '%u %g' own given";
    assert_eq!(
        podman.says(script),
        [&own, &own, "4 5\n65534 65534\n", &own, &own, "4 5\n"].concat()
    );
    let script = "cd /data; chown 7:8 given; touch more; chown 0 roots 2>/dev/null || echo refused
                  stat -c '%u %g' given more";
    let as_root = ["exec", "--user", "0:0", "c", "sh", "-c", script];
    assert_eq!(podman.ok(&as_root), "refused\n7 8\n0 0\n");
    for (name, expected) in [
        ("own", (ID, ID)),
        ("made", (ID, ID)),
        ("given", (FIRST + 7, FIRST + 8)),
        ("more", (FIRST, FIRST)),
        ("roots", (0, 0)),
    ] {
        assert_eq!(owner(&data.join(name)), expected, "{name}");
    }
    podman.clear();
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
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
