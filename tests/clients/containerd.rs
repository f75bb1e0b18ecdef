//! containerd, through `ctr` and its shim for runc, with a daemon of the test's own.

use std::fs;
use std::io::Write;
use std::process::Command;

use nacre_tests::client::{Daemon, ParentCgroup};
use nacre_tests::console::in_shell;
use nacre_tests::network::{self, Network};
use nacre_tests::{Case, Isolation, Outcome, leftovers};
use serde_json::json;

use super::image::{self, BUSYBOX};
use super::workload::{COUNTS, TALKS, answer, talk};

nacre_tests::tests![
    run_and_its_exit_status,
    a_detached_life,
    flags_of_run,
    out_of_memory,
    networks,
    networks_by_cni,
    an_image_with_a_user,
    a_terminal,
    typing_at_a_terminal,
];

struct Containerd<'a> {
    case: &'a Case,
    // The fields are dropped in this order.
    _daemon: Daemon,
    _cgroup: ParentCgroup,
}

impl<'a> Containerd<'a> {
    /// Starts containerd with the busybox image.
    fn start(case: &'a Case) -> Self {
        case.needs("containerd", "containerd");
        case.needs("ctr", "containerd");
        let config = case.directory().join("containerd.toml");
        let directory = case.directory().display();
        fs::write(
            &config,
            format!(
                "version = 2\nroot = \"{directory}/lib\"\nstate = \"{directory}/run\"\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
                 \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
                 \"io.containerd.snapshotter.v1.devmapper\"]\n\
                 [grpc]\naddress = \"{directory}/s\"\n[ttrpc]\naddress = \"{directory}/t\"\n\
                 [debug]\nlevel = \"warn\"\n"
            ),
        )
        .unwrap();
        let mut command = case.mark(Command::new("containerd"));
        command.arg("--config").arg(config);
        let mut daemon = Daemon::start(command, case.directory());
        let asks = || case.spawn(ctr(case, &["version"])).finish();
        if let Err(why) = daemon.wait_until(asks) {
            drop(daemon);
            case.ignore(&format!("containerd doesn't run here: {why}"));
        }
        let containerd = Self {
            case,
            _daemon: daemon,
            _cgroup: ParentCgroup::of(case),
        };
        containerd.import(BUSYBOX, "");
        containerd
    }

    /// Imports an image of busybox that runs as a user.
    #[track_caller]
    fn import(&self, name: &str, user: &str) {
        let image = image::saved(self.case, &image::busybox(self.case), name, user);
        let image = image.to_str().unwrap();
        self.ok(&["image", "import", "--snapshotter", "native", image]);
    }

    fn ctr(&self, words: &[&str]) -> Outcome {
        self.case.spawn(ctr(self.case, words)).finish()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.ctr(words).expect(0)
    }

    /// Returns `ctr run` with flags, an id and a command.
    fn run_command(&self, flags: &[&str], id: &str, words: &[&str]) -> Command {
        self.run_image(BUSYBOX, flags, id, words)
    }

    /// Returns the same for another image.
    fn run_image(&self, image: &str, flags: &[&str], id: &str, words: &[&str]) -> Command {
        let binary = self.case.binary();
        let root = self.case.directory().join("runtime");
        let mut all = vec!["run", "--snapshotter", "native", "--runc-binary"];
        all.extend([
            binary.to_str().unwrap(),
            "--runc-root",
            root.to_str().unwrap(),
        ]);
        all.extend(flags);
        all.extend([image, id]);
        all.extend(words);
        ctr(self.case, &all)
    }

    fn run(&self, flags: &[&str], id: &str, words: &[&str]) -> Outcome {
        self.case.spawn(self.run_command(flags, id, words)).finish()
    }

    /// Runs a script. Its container ends only once ctr has shown its output, because a container's
    /// output is lost if it ends before ctr has opened it.
    #[track_caller]
    fn run_script(&self, flags: &[&str], id: &str, script: &str) -> Outcome {
        self.run_script_of(BUSYBOX, flags, id, script)
    }

    /// Does the same with another image.
    #[track_caller]
    fn run_script_of(&self, image: &str, flags: &[&str], id: &str, script: &str) -> Outcome {
        let script = format!("({script}); status=$?; echo written; read line; exit $status");
        let words = ["sh", "-c", &script];
        let mut running = self.case.spawn(self.run_image(image, flags, id, &words));
        let written = running.wait_for_line("written");
        let stdin = running.stdin.as_mut().unwrap();
        stdin.write_all(b"go on\n").unwrap();
        let mut outcome = running.finish();
        outcome.stdout.splice(..0, written.into_bytes());
        outcome
    }

    /// Fails if the runtime's state of any container is still there.
    #[track_caller]
    fn expect_nothing(&self) {
        let root = self.case.directory().join("runtime").join(self.case.id());
        assert_eq!(leftovers::files(&root), [""; 0]);
    }

    /// Returns a container's status from `ctr task ls`.
    #[track_caller]
    fn status(&self, id: &str) -> String {
        let list = self.ok(&["task", "ls"]);
        let line = list.lines().find(|line| line.starts_with(id));
        let line = line.unwrap_or_else(|| panic!("no {id} in {list}"));
        line.split_whitespace().nth(2).unwrap().to_owned()
    }
}

fn ctr(case: &Case, words: &[&str]) -> Command {
    let mut command = case.mark(Command::new("ctr"));
    command
        .arg("--address")
        .arg(case.directory().join("s"))
        // The namespace is also the name of its containers' parent cgroup.
        .args(["--namespace", case.id()])
        .args(words);
    command
}

fn run_and_its_exit_status(case: &Case) {
    let containerd = Containerd::start(case);
    let outcome = containerd.run_script(&["--rm"], "a", "echo out; echo err >&2; exit 7");
    assert_eq!(outcome.expect(7), "out\n");
    assert!(outcome.stderr.starts_with("err\n"), "{outcome:?}");
    let outcome = containerd.run(&["--rm"], "b", &["nonesuch"]);
    outcome.refused_somehow();
    assert!(
        outcome
            .stderr
            .contains("executable file not found in $PATH"),
        "{}",
        outcome.stderr
    );
    // Its name is free again.
    for _ in 0..3 {
        let outcome = containerd.run_script(&["--rm"], "a", "echo again");
        assert_eq!(outcome.expect(0), "again\n");
    }
    containerd.expect_nothing();
}

fn a_detached_life(case: &Case) {
    let containerd = Containerd::start(case);
    let log = case.directory().join("log-of-a");
    let uri = format!("file://{}", log.display());
    containerd
        .run(&["--detach", "--log-uri", &uri], "a", &["sh", "-c", COUNTS])
        .expect(0);
    let log = || fs::read_to_string(&log).unwrap_or_default();
    case.wait_for("the log", || log().starts_with("1\n2\n3\n"));
    assert_eq!(containerd.status("a"), "RUNNING");
    let exec = |id: &str, script: &str| {
        containerd.ctr(&["task", "exec", "--exec-id", id, "a", "sh", "-c", script])
    };
    assert_eq!(exec("1", "echo inside; exit 4").expect(4), "inside\n");
    exec("2", "kill -9 $$").expect(137);
    let missing = containerd.ctr(&["task", "exec", "--exec-id", "3", "a", "nonesuch"]);
    missing.refused_somehow();
    assert!(
        missing
            .stderr
            .contains("executable file not found in $PATH"),
        "{missing:?}"
    );
    containerd.ok(&["task", "pause", "a"]);
    assert_eq!(containerd.status("a"), "PAUSED");
    let before = case.wait_until_still(log);
    containerd.ok(&["task", "resume", "a"]);
    assert_eq!(containerd.status("a"), "RUNNING");
    case.wait_for("more numbers", || log().len() > before.len());
    let pids = containerd.ok(&["task", "ps", "a"]);
    assert!(pids.lines().count() >= 2, "{pids}");
    assert!(containerd.ok(&["task", "metrics", "a"]).contains("memory"));
    containerd.ok(&["task", "kill", "--signal", "TERM", "a"]);
    case.wait_for("the end", || containerd.status("a") == "STOPPED");
    let removed = containerd.ctr(&["task", "rm", "a"]);
    removed.expect(0);
    let status = "task a exit with non-zero exit code 6";
    assert!(removed.stderr.contains(status), "{removed:?}");
    containerd.ok(&["container", "rm", "a"]);

    // A container is removed while it runs.
    containerd
        .run(&["--detach"], "b", &["sleep", "1000"])
        .expect(0);
    containerd.ok(&["task", "rm", "--force", "b"]);
    containerd.ok(&["container", "rm", "b"]);
    containerd.expect_nothing();
}

fn flags_of_run(case: &Case) {
    let containerd = Containerd::start(case);
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    let mount = format!(
        "type=bind,src={},dst=/data,options=rbind:ro",
        data.display()
    );
    let flags = [
        "--rm",
        "--env",
        "A=b",
        "--cwd",
        "/tmp",
        "--mount",
        &mount,
        "--memory-limit",
        "67108864",
        "--read-only",
    ];
    let script = "echo $A; pwd; touch /data/x /x; true";
    let outcome = containerd.run_script(&flags, "a", script);
    assert_eq!(outcome.expect(0), "b\n/tmp\n");
    assert_eq!(
        outcome.stderr.matches("Read-only file system").count(),
        2,
        "{outcome:?}"
    );
    let shows = "ls /sys/class/net";
    let flags = ["--privileged", "--net-host"];
    match case.isolation() {
        Isolation::Process => {
            let outcome = containerd.run_script(&[&["--rm"], &flags[..]].concat(), "b", shows);
            assert!(outcome.expect(0).contains("lo"));
        }
        Isolation::Vm => {
            for (flag, message) in flags.into_iter().zip([
                "is a device of the host",
                "a VM can't use the host's network",
            ]) {
                let outcome = containerd.run(&["--rm", flag], "b", &["true"]);
                outcome.refused_somehow();
                assert!(outcome.stderr.contains(message), "{outcome:?}");
            }
        }
    }
    let mounts = ["mount", "-t", "tmpfs", "t", "/tmp"];
    let outcome = containerd.run(&["--rm"], "c", &mounts);
    outcome.refused_somehow();
    let capable = ["--rm", "--cap-add", "CAP_SYS_ADMIN"];
    containerd.run(&capable, "d", &mounts).expect(0);
    containerd.expect_nothing();
}

fn out_of_memory(case: &Case) {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if case.isolation() == Isolation::Process && swaps.lines().count() > 1 {
        case.ignore("ctr can't limit swap, and this host has some");
    }
    let containerd = Containerd::start(case);
    let mut events = case.spawn(ctr(case, &["events"]));
    // The shim listens once the container runs.
    let takes = "sleep 0.5; exec dd if=/dev/zero of=/dev/null bs=100M count=1";
    let flags = ["--rm", "--memory-limit", "33554432"];
    containerd
        .run(&flags, "a", &["sh", "-c", takes])
        .expect(137);
    containerd.expect_nothing();
    while !events.next_line().contains("/tasks/oom") {
        assert!(events.is_running(), "no word of an OOM kill");
    }
    events.kill();
}

/// Namespaces by path, as CNI's callers give them.
fn networks(case: &Case) {
    let containerd = Containerd::start(case);
    let network = Network::new(case);
    network.shell(
        case,
        "ip link add bridge type bridge; ip link set bridge up
         for n in 1 2; do ip netns add n$n
         ip link add to-$n type veth peer name eth0 netns n$n
         ip link set to-$n master bridge up
         ip -n n$n address add 10.74.1.$n/24 dev eth0; ip -n n$n link set eth0 up; done",
    );
    for (id, name) in [("a", "n1"), ("b", "n2")] {
        let namespace = format!("network:{}", network.named(name).display());
        let server = format!("exec nc -ll -p 80 -e echo this is {id}");
        let flags = ["--detach", "--with-ns", &namespace];
        let words = ["sh", "-c", &server];
        containerd.run(&flags, id, &words).expect(0);
    }
    let mut execs = 0..;
    let mut ask = |id: &str, server: &str| {
        let exec = execs.next().unwrap().to_string();
        let words = ["task", "exec", "--exec-id", &exec, id];
        let asks = ["nc", "-w", "3", server, "80"];
        answer(&containerd.ctr(&[&words[..], &asks].concat()))
    };
    for (id, server, says) in [
        ("a", "10.74.1.2", "this is b\n"),
        ("b", "10.74.1.1", "this is a\n"),
    ] {
        case.wait_for(says, || ask(id, server).as_deref() == Some(says));
    }
    // A container that is in neither network.
    let asks = ["nc", "-w", "3", "10.74.1.1", "80"];
    let outcome = containerd.run(&["--rm"], "c", &asks);
    assert_eq!(answer(&outcome), None);
    for id in ["a", "b"] {
        containerd.ok(&["task", "rm", "--force", id]);
        containerd.ok(&["container", "rm", id]);
    }
    containerd.expect_nothing();
}

/// ctr calls the plugins itself, between create and start, on the namespace that nacre made.
fn networks_by_cni(case: &Case) {
    let plugins = network::plugins(case);
    let containerd = Containerd::start(case);
    let network = Network::new(case);
    // Where ctr looks for the plugins and their configuration, whatever it is told.
    let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [{
        "type": "bridge", "bridge": "cni0", "isGateway": true, "mtu": 1400,
        "ipam": {
            "type": "host-local", "ranges": [[{ "subnet": "10.74.1.0/24" }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    }]});
    let (plugins, kept) = (plugins.display(), case.directory().join("plugins"));
    let kept = kept.display();
    network.shell(
        case,
        &format!(
            "mkdir -p /etc/cni /opt /var/lib/cni {kept}; mount --bind {plugins} {kept}
             for place in /etc/cni /opt /var/lib/cni; do mount -t tmpfs tmpfs $place; done
             mkdir -p /etc/cni/net.d /opt/cni/bin; mount --bind {kept} /opt/cni/bin
             echo '{list}' >/etc/cni/net.d/net.conflist"
        ),
    );
    let run = |flags: &[&str], id: &str, script: &str| {
        let flags = [&["--cni"], flags].concat();
        let command = containerd.run_command(&flags, id, &["sh", "-c", script]);
        case.spawn(network.enter(&command)).finish()
    };
    run(&["--detach"], "a", "exec nc -ll -p 80 -e echo this is a").expect(0);
    let asks = "busybox nc -w 3 10.74.1.2 80 </dev/null || true";
    case.wait_for("the server", || network.shell(case, asks) == "this is a\n");
    let log = case.directory().join("log-of-b");
    let uri = format!("file://{}", log.display());
    let script = "cat /sys/class/net/eth0/mtu; ip route; nc -w 3 10.74.1.2 80 </dev/null";
    run(&["--detach", "--log-uri", &uri], "b", script).expect(0);
    let log = || fs::read_to_string(&log).unwrap_or_default();
    case.wait_for("an answer", || log().ends_with("this is a\n"));
    network::has_all(&log(), &["1400\n", "default via 10.74.1.1 dev eth0"]);
    for id in ["a", "b"] {
        containerd.ok(&["task", "rm", "--force", id]);
        containerd.ok(&["container", "rm", id]);
    }
    containerd.expect_nothing();
}

fn an_image_with_a_user(case: &Case) {
    let containerd = Containerd::start(case);
    let name = "localhost/user:test";
    containerd.import(name, "1234:1235");
    let script = "id -u; id -g; touch /x 2>/dev/null || echo not there";
    let outcome = containerd.run_script_of(name, &["--rm"], "a", script);
    assert_eq!(outcome.expect(0), "1234\n1235\nnot there\n");
    containerd.expect_nothing();
}

fn a_terminal(case: &Case) {
    let containerd = Containerd::start(case);
    let command = containerd.run_command(&["--rm", "-t"], "a", &["sh", "-c", "tty; exit 3"]);
    let output = case.at_a_terminal(&in_shell(&command)).finish().expect(3);
    assert!(output.contains("/dev/pts/0"), "{output}");
    let sleeps = ["sleep", "1000"];
    containerd.run(&["--detach"], "b", &sleeps).expect(0);
    let words = ["task", "exec", "-t", "--exec-id", "1", "b"];
    let exec = ctr(case, &[&words[..], &["sh", "-c", "tty; exit 4"]].concat());
    let output = case.at_a_terminal(&in_shell(&exec)).finish().expect(4);
    assert!(output.contains("/dev/pts/0"), "{output}");
    containerd.ok(&["task", "rm", "--force", "b"]);
    containerd.ok(&["container", "rm", "b"]);
    containerd.expect_nothing();
}

fn typing_at_a_terminal(case: &Case) {
    let containerd = Containerd::start(case);
    let run = containerd.run_command(&["--rm", "-t"], "a", &["sh", "-c", TALKS]);
    talk(case, &run, "/dev/pts/0");
    let sleeps = ["sleep", "1000"];
    containerd.run(&["--detach"], "b", &sleeps).expect(0);
    let words = ["task", "exec", "-t", "--exec-id", "1", "b"];
    let exec = ctr(case, &[&words[..], &["sh", "-c", TALKS]].concat());
    talk(case, &exec, "/dev/pts/0");
    containerd.ok(&["task", "rm", "--force", "b"]);
    containerd.ok(&["container", "rm", "b"]);
    containerd.expect_nothing();
}
