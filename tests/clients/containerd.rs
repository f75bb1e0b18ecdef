//! containerd, through `ctr` and its shim for runc, with a daemon of the test's own.

use std::fs;
use std::io::Write;
use std::process::Command;

use nacre_tests::client::{Daemon, ParentCgroup};
use nacre_tests::{Case, Outcome, leftovers};

use crate::image::{self, BUSYBOX};

nacre_tests::tests![
    run_and_its_exit_status,
    a_detached_life,
    flags_of_run,
    a_terminal,
];

struct Containerd<'a> {
    case: &'a Case,
    // Dropped in this order.
    _daemon: Daemon,
    _cgroup: ParentCgroup,
}

impl<'a> Containerd<'a> {
    /// containerd with the busybox image.
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
        let image = image::saved(case, &image::busybox(case), BUSYBOX);
        let image = image.to_str().unwrap();
        let imported = containerd.ctr(&["image", "import", "--snapshotter", "native", image]);
        imported.expect(0);
        containerd
    }

    fn ctr(&self, words: &[&str]) -> Outcome {
        self.case.spawn(ctr(self.case, words)).finish()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.ctr(words).expect(0)
    }

    /// `ctr run` with flags, an id and the words of a command.
    fn run_command(&self, flags: &[&str], id: &str, words: &[&str]) -> Command {
        let binary = self.case.binary();
        let root = self.case.directory().join("runtime");
        let mut all = vec!["run", "--snapshotter", "native", "--runc-binary"];
        all.extend([
            binary.to_str().unwrap(),
            "--runc-root",
            root.to_str().unwrap(),
        ]);
        all.extend(flags);
        all.extend([BUSYBOX, id]);
        all.extend(words);
        ctr(self.case, &all)
    }

    fn run(&self, flags: &[&str], id: &str, words: &[&str]) -> Outcome {
        self.case.spawn(self.run_command(flags, id, words)).finish()
    }

    /// Runs a script. Its container ends once ctr has shown its output, as what a container has
    /// written is lost if it ends before ctr has opened it.
    #[track_caller]
    fn run_script(&self, flags: &[&str], id: &str, script: &str) -> Outcome {
        let script = format!("({script}); status=$?; echo written; read line; exit $status");
        let words = ["sh", "-c", &script];
        let mut running = self.case.spawn(self.run_command(flags, id, &words));
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

    /// The status of a container, as `ctr task ls` says.
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
        // The name of its containers' parent cgroup too.
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
    let script = "trap 'exit 6' TERM; while :; do sleep 0.05; done";
    containerd
        .run(&["--detach"], "a", &["sh", "-c", script])
        .expect(0);
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
    containerd.ok(&["task", "resume", "a"]);
    assert_eq!(containerd.status("a"), "RUNNING");
    let pids = containerd.ok(&["task", "ps", "a"]);
    assert!(pids.lines().count() >= 2, "{pids}");
    assert!(containerd.ok(&["task", "metrics", "a"]).contains("memory"));
    containerd.ok(&["task", "kill", "--signal", "TERM", "a"]);
    case.wait_for("the end", || containerd.status("a") == "STOPPED");
    containerd.ctr(&["task", "rm", "a"]).expect(0);
    containerd.ok(&["container", "rm", "a"]);

    // Removed while it runs.
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
    let output = outcome.expect(0);
    assert!(output.starts_with("b\n/tmp\n"), "{output}");
    assert_eq!(
        outcome.stderr.matches("Read-only file system").count(),
        2,
        "{outcome:?}"
    );
    let flags = ["--rm", "--privileged", "--net-host"];
    let output = containerd.run_script(&flags, "b", "ls /sys/class/net");
    assert!(output.expect(0).contains("lo"));
    containerd.expect_nothing();
}

fn a_terminal(case: &Case) {
    let containerd = Containerd::start(case);
    let command = containerd.run_command(&["--rm", "-t"], "a", &["sh", "-c", "tty; exit 3"]);
    let words: Vec<String> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut script = case.mark(Command::new("script"));
    script.args([
        "--quiet",
        "--return",
        "--command",
        &words.join(" "),
        "/dev/null",
    ]);
    let output = case.spawn(script).finish().expect(3);
    assert!(output.contains("/dev/pts/0"), "{output}");
    containerd.expect_nothing();
}
