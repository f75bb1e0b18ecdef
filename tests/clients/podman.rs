//! Podman, with storage, state and cgroups of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre_tests::client::{ParentCgroup, which};
use nacre_tests::{Case, Outcome};
use nix::mount::{MntFlags, umount2};

use crate::image::{self, BUSYBOX, DEBIAN};

nacre_tests::tests![
    run_and_its_exit_status,
    standard_input,
    a_detached_life,
    exec,
    terminals,
    stop_and_kill,
    pause,
    limits,
    out_of_memory,
    update,
    an_init,
    health_checks,
    volumes,
    users_and_privileges,
    namespaces_of_others,
    a_user_namespace,
    a_container_from_create_to_remove,
    an_image_of_debian,
];

/// Podman's storage, which it mounts over itself, and leaves so if two of its processes end at
/// once.
struct Storage(PathBuf);

impl Drop for Storage {
    fn drop(&mut self) {
        // Mostly, Podman has done so.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

struct Podman<'a> {
    case: &'a Case,
    cgroup: ParentCgroup,
    // After the cgroup, which waits for Podman's helpers.
    _storage: Storage,
    driver: &'static str,
}

impl<'a> Podman<'a> {
    /// Podman with the busybox image.
    fn new(case: &'a Case) -> Self {
        let podman = Self::without_image(case);
        podman.import(&image::busybox(case), BUSYBOX);
        podman
    }

    fn without_image(case: &'a Case) -> Self {
        case.needs("podman", "podman");
        case.needs("conmon", "conmon");
        // The limits: this process may not be allowed to raise its own.
        fs::write(
            case.directory().join("containers.conf"),
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             lock_type = \"file\"\n\
             [containers]\nnetns = \"none\"\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [network]\nnetwork_backend = \"netavark\"\n",
        )
        .unwrap();
        let podman = Self {
            case,
            cgroup: ParentCgroup::of(case),
            _storage: Storage(case.directory().join("storage/overlay")),
            driver: match overlay_works(case.directory()) {
                true => "overlay",
                false => "vfs",
            },
        };
        let info = podman.run(&["info"]);
        if info.status() != Some(0) {
            case.ignore(&format!("podman doesn't run here: {}", info.stderr.trim()));
        }
        podman
    }

    fn import(&self, archive: &Path, name: &str) {
        let archive = archive.to_str().unwrap();
        self.run(&["import", "--quiet", archive, name]).expect(0);
    }

    fn command(&self, words: &[&str]) -> Command {
        let place = |name: &str| self.case.directory().join(name);
        let mut command = self.case.mark(Command::new("podman"));
        command
            // conmon leaves word of an OOM kill where it was started.
            .current_dir(self.case.directory())
            .env("CONTAINERS_CONF", place("containers.conf"))
            .arg("--root")
            .arg(place("storage"))
            .arg("--runroot")
            .arg(place("run"))
            .arg("--tmpdir")
            .arg(place("libpod"))
            .args(["--storage-driver", self.driver, "--runtime"])
            .arg(self.case.binary())
            .args(words);
        command
    }

    /// A podman command, carried out.
    fn run(&self, words: &[&str]) -> Outcome {
        self.case.spawn(self.command(words)).finish()
    }

    /// The same, which must go well. Returns what it prints.
    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.run(words).expect(0)
    }

    /// `podman run --rm` with flags, of the busybox image.
    fn once(&self, flags: &[&str], words: &[&str]) -> Outcome {
        let mut all = vec!["run", "--rm", "--cgroup-parent", self.cgroup.path()];
        all.extend(flags);
        all.push(BUSYBOX);
        all.extend(words);
        self.run(&all)
    }

    /// `podman run --detach` with flags and a script, of the busybox image, as `c`.
    #[track_caller]
    fn detach(&self, flags: &[&str], script: &str) {
        let parent = self.cgroup.path();
        let mut all = vec!["run", "--detach", "--name", "c", "--cgroup-parent", parent];
        all.extend(flags);
        all.extend([BUSYBOX, "sh", "-c", script]);
        self.ok(&all);
    }

    /// Removes everything: what stays then was left behind.
    #[track_caller]
    fn clear(&self) {
        self.ok(&["rm", "--all", "--force", "--time", "0"]);
        self.ok(&["rmi", "--all", "--force"]);
    }

    /// What `podman inspect` says about the container, by a Go template.
    #[track_caller]
    fn inspect(&self, template: &str) -> String {
        self.ok(&["inspect", "--format", template, "c"])
            .trim_end()
            .to_owned()
    }

    #[track_caller]
    fn wait_for_log(&self, text: &str) {
        let what = format!("{text:?} in the log");
        self.case
            .wait_for(&what, || self.ok(&["logs", "c"]).contains(text));
    }
}

/// Whether overlays can be mounted above a directory.
fn overlay_works(directory: &Path) -> bool {
    let place = |name: &str| {
        let path = directory.join("overlay").join(name);
        fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (lower, upper, work, on) = (place("l"), place("u"), place("w"), place("m"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "-o", &options, "overlay", &on])
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return false;
    }
    Command::new("umount")
        .arg(&on)
        .status()
        .is_ok_and(|status| status.success())
}

fn run_and_its_exit_status(case: &Case) {
    let podman = Podman::new(case);
    let outcome = podman.once(&[], &["sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!(outcome.expect(9), "out\n");
    assert_eq!(outcome.stderr, "err\n");
    podman
        .once(&[], &["sh", "-c", "kill -9 $$; sleep 1"])
        .expect(0);
    podman.once(&[], &["nonesuch"]).expect(127);
    podman.once(&[], &["/etc/passwd"]).expect(126);
    podman
        .once(&["--workdir", "/nonesuch"], &["pwd"])
        .refused_somehow();
    let outcome = podman.once(
        &["--env", "A=b", "--hostname", "name"],
        &["sh", "-c", "echo $A; hostname"],
    );
    assert_eq!(outcome.expect(0), "b\nname\n");
    podman.clear();
}

fn standard_input(case: &Case) {
    let podman = Podman::new(case);
    let mut running = case.spawn(podman.command(&[
        "run",
        "--rm",
        "-i",
        "--cgroup-parent",
        podman.cgroup.path(),
        BUSYBOX,
        "cat",
    ]));
    std::io::Write::write_all(running.stdin.as_mut().unwrap(), &[b'x'; 100_000]).unwrap();
    assert_eq!(running.finish().expect(0).len(), 100_000);
    podman.clear();
}

fn a_detached_life(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(
        &[],
        "echo started; echo error >&2; trap 'exit 5' TERM; while :; do sleep 0.05; done",
    );
    podman.wait_for_log("started");
    assert_eq!(podman.inspect("{{.State.Status}}"), "running");
    assert_eq!(podman.ok(&["ps", "--format", "{{.Names}}"]), "c\n");
    assert!(podman.ok(&["top", "c"]).contains("echo started"));
    let stats = podman.ok(&[
        "stats",
        "--no-stream",
        "--format",
        "{{.PIDS}} {{.MemUsage}}",
        "c",
    ]);
    assert!(stats.starts_with(['1', '2', '3']), "{stats}");
    podman.ok(&["stop", "c"]);
    assert_eq!(
        podman.inspect("{{.State.Status}} {{.State.ExitCode}}"),
        "exited 5"
    );
    // Once more, with the same root.
    podman.ok(&["start", "c"]);
    podman.wait_for_log("started\nstarted");
    podman.ok(&["restart", "--time", "1", "c"]);
    assert_eq!(podman.inspect("{{.State.Status}}"), "running");
    podman.ok(&["rm", "--force", "--time", "1", "c"]);
    podman.clear();
}

fn exec(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(&[], "sleep 1000");
    let outcome = podman.run(&["exec", "c", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(outcome.expect(3), "out\n");
    assert_eq!(outcome.stderr, "err\n");
    let missing = podman.run(&["exec", "c", "nonesuch"]);
    missing.expect(127);
    assert!(missing.stderr.contains("nonesuch"), "{}", missing.stderr);
    podman.run(&["exec", "c", "/etc/passwd"]).expect(126);
    podman
        .run(&["exec", "c", "sh", "-c", "kill -9 $$"])
        .expect(137);
    let flags = [
        "exec",
        "--user",
        "12:34",
        "--workdir",
        "/tmp",
        "--env",
        "A=b",
        "c",
    ];
    let script = ["sh", "-c", "id -u; id -g; pwd; echo $A"];
    assert_eq!(
        podman.ok(&[&flags[..], &script].concat()),
        "12\n34\n/tmp\nb\n"
    );
    let mut running = case.spawn(podman.command(&["exec", "-i", "c", "wc", "-c"]));
    std::io::Write::write_all(running.stdin.as_mut().unwrap(), b"12345").unwrap();
    assert_eq!(running.finish().expect(0), "5\n");
    podman.ok(&[
        "exec",
        "--detach",
        "c",
        "sh",
        "-c",
        "echo >/detached; sleep 1000",
    ]);
    case.wait_for("what was detached", || {
        podman
            .run(&["exec", "c", "test", "-e", "/detached"])
            .status()
            == Some(0)
    });
    let privileged = podman.ok(&[
        "exec",
        "--privileged",
        "c",
        "grep",
        "CapEff",
        "/proc/self/status",
    ]);
    let ordinary = podman.ok(&["exec", "c", "grep", "CapEff", "/proc/self/status"]);
    assert_ne!(privileged, ordinary);
    podman.clear();
}

/// A command at a terminal of 30 rows and 90 columns, given by script(1).
fn at_a_terminal(case: &Case, command: &Command) -> String {
    let words: Vec<String> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let session = format!("stty rows 30 cols 90; {}", words.join(" "));
    let mut script = case.mark(Command::new("script"));
    for (name, value) in command.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    script.args(["--quiet", "--return", "--command", &session, "/dev/null"]);
    case.spawn(script).finish().expect(0).replace('\r', "")
}

fn terminals(case: &Case) {
    let podman = Podman::new(case);
    let parent = podman.cgroup.path();
    // The size comes a moment after the start.
    let script = "tty; sleep 1; stty size";
    let words = [
        "run",
        "--rm",
        "-it",
        "--cgroup-parent",
        parent,
        BUSYBOX,
        "sh",
        "-c",
        script,
    ];
    let output = at_a_terminal(case, &podman.command(&words));
    assert!(
        output.contains("/dev/pts/0\n") && output.contains("30 90\n"),
        "{output}"
    );
    podman.detach(&["-t"], "tty; sleep 1000");
    podman.wait_for_log("/dev/pts/0");
    let output = at_a_terminal(
        case,
        &podman.command(&["exec", "-it", "c", "sh", "-c", script]),
    );
    assert!(
        output.contains("/dev/pts/1\n") && output.contains("30 90\n"),
        "{output}"
    );
    podman.clear();
}

fn stop_and_kill(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(
        &[],
        "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done",
    );
    podman.wait_for_log("ready");
    podman.ok(&["kill", "--signal", "USR1", "c"]);
    podman.wait_for_log("usr1");
    podman.ok(&["kill", "c"]);
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    podman.ok(&["start", "c"]);
    // It ignores TERM as the first of its pid namespace, so it is killed after a while.
    podman.ok(&["stop", "--time", "1", "c"]);
    assert_eq!(podman.inspect("{{.State.ExitCode}}"), "137");
    podman.clear();
}

fn pause(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(
        &[],
        "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done",
    );
    podman.wait_for_log("3\n");
    podman.ok(&["pause", "c"]);
    assert_eq!(podman.inspect("{{.State.Status}}"), "paused");
    let before = podman.ok(&["logs", "c"]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(podman.ok(&["logs", "c"]), before);
    podman.run(&["exec", "c", "true"]).refused_somehow();
    podman.ok(&["unpause", "c"]);
    case.wait_for("more numbers", || {
        podman.ok(&["logs", "c"]).len() > before.len()
    });
    podman.ok(&["pause", "c"]);
    podman.clear();
}

/// Prints a limit's file by its name in version 1 and in version 2 of cgroups.
fn shows(version_1: &str, version_2: &str) -> String {
    format!("cd /sys/fs/cgroup; cat {version_1} 2>/dev/null || cat {version_2}")
}

fn limits(case: &Case) {
    let podman = Podman::new(case);
    let script = [
        shows("memory/memory.limit_in_bytes", "memory.max"),
        shows("pids/pids.max", "pids.max"),
        shows("cpu/cpu.cfs_quota_us", "cpu.max"),
        shows("cpuset/cpuset.cpus", "cpuset.cpus"),
    ]
    .join("; ");
    let flags = [
        "--memory",
        "64m",
        "--pids-limit",
        "10",
        "--cpus",
        "0.5",
        "--cpuset-cpus",
        "0",
    ];
    let output = podman.once(&flags, &["sh", "-c", &script]).expect(0);
    let lines: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(lines[..3], ["67108864", "10", "50000"], "{output}");
    assert_eq!(lines.last(), Some(&"0"), "{output}");
    let forks = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; echo not reached";
    let outcome = podman.once(&["--pids-limit", "4"], &["sh", "-c", forks]);
    assert!(outcome.stderr.contains("can't fork"), "{outcome:?}");
    let flags = [
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "nproc=1024:1024",
        "--shm-size",
        "1m",
        "--oom-score-adj",
        "200",
    ];
    let script = "ulimit -n; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2
                  cat /proc/self/oom_score_adj";
    assert_eq!(
        podman.once(&flags, &["sh", "-c", script]).expect(0),
        "100\n1024\n200\n"
    );
    podman.clear();
}

fn out_of_memory(case: &Case) {
    let podman = Podman::new(case);
    let limit = ["--memory", "32m", "--memory-swap", "32m"];
    podman.detach(
        &limit,
        "sleep 0.5; exec dd if=/dev/zero of=/dev/null bs=100M count=1",
    );
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    podman.clear();
}

fn update(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(&["--memory", "128m"], "sleep 1000");
    let outcome = podman.run(&["update", "--memory", "64m", "c"]);
    if outcome.stderr.contains("unrecognized command") {
        podman.clear();
        case.ignore("this podman has no update");
    }
    outcome.expect(0);
    let script = shows("memory/memory.limit_in_bytes", "memory.max");
    assert_eq!(podman.ok(&["exec", "c", "sh", "-c", &script]), "67108864\n");
    podman.clear();
}

fn an_init(case: &Case) {
    if which("catatonit").is_none() && !Path::new("/usr/libexec/podman/catatonit").exists() {
        case.ignore("no catatonit here (Debian's catatonit has it)");
    }
    let podman = Podman::new(case);
    // It reaps what loses its parent.
    let script = "cat /proc/1/comm; (sleep 0.1 &); sleep 0.4
                  grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    let output = podman.once(&["--init"], &["sh", "-c", script]).expect(0);
    assert!(
        output.ends_with("\n0\n") && !output.starts_with("sh\n"),
        "{output}"
    );
    podman.clear();
}

fn health_checks(case: &Case) {
    let podman = Podman::new(case);
    let flags = [
        "--health-cmd",
        "test -e /healthy",
        "--health-interval",
        "disable",
        "--health-retries",
        "1",
    ];
    podman.detach(&flags, "sleep 1000");
    podman.run(&["healthcheck", "run", "c"]).expect(1);
    assert_eq!(podman.inspect("{{.State.Health.Status}}"), "unhealthy");
    podman.ok(&["exec", "c", "touch", "/healthy"]);
    podman.ok(&["healthcheck", "run", "c"]);
    assert_eq!(podman.inspect("{{.State.Health.Status}}"), "healthy");
    podman.clear();
}

fn volumes(case: &Case) {
    let podman = Podman::new(case);
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "of the host\n").unwrap();
    let bind = |options: &str| format!("{}:/data{options}", data.display());
    let script = "cat /data/file; echo new >/data/new";
    let outcome = podman.once(&["-v", &bind(":ro")], &["sh", "-c", script]);
    assert_eq!(outcome.expect(1), "of the host\n");
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    podman
        .once(&["-v", &bind("")], &["sh", "-c", script])
        .expect(0);
    assert_eq!(fs::read_to_string(data.join("new")).unwrap(), "new\n");
    // A named one outlives its containers.
    podman
        .once(&["-v", "named:/v"], &["sh", "-c", "echo kept >/v/file"])
        .expect(0);
    let output = podman
        .once(&["-v", "named:/v"], &["cat", "/v/file"])
        .expect(0);
    assert_eq!(output, "kept\n");
    let flags = [
        "--tmpfs",
        "/t:size=1m,mode=1777",
        "--mount",
        "type=tmpfs,destination=/u",
    ];
    let script = "stat -c %a /t; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /u/x; ls /u";
    assert_eq!(
        podman.once(&flags, &["sh", "-c", script]).expect(0),
        "1777\n1024\nx\n"
    );
    podman.ok(&["volume", "rm", "named"]);
    podman.clear();
}

fn users_and_privileges(case: &Case) {
    let podman = Podman::new(case);
    let script = "id -u; id -g; grep CapEff /proc/self/status; touch /x";
    let flags = ["--user", "1000:1001", "--read-only", "--cap-drop", "all"];
    let outcome = podman.once(&flags, &["sh", "-c", script]);
    assert_eq!(outcome.expect(1), "1000\n1001\nCapEff:\t0000000000000000\n");
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    let flags = [
        "--cap-drop",
        "all",
        "--cap-add",
        "chown",
        "--security-opt",
        "no-new-privileges",
    ];
    let script = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; mount -t tmpfs t /tmp";
    let outcome = podman.once(&flags, &["sh", "-c", script]);
    let output = outcome.text();
    assert!(
        output.contains("CapEff:\t0000000000000001\nNoNewPrivs:\t1\n"),
        "{output}"
    );
    // The default profile is on, if podman has one.
    assert!(
        output.contains("Seccomp:\t2") || !Path::new("/usr/share/containers/seccomp.json").exists()
    );
    assert_ne!(outcome.status(), Some(0));
    let output = podman.once(
        &["--privileged"],
        &["sh", "-c", "mount -t tmpfs t /tmp && ls /dev"],
    );
    let output = output.expect(0);
    assert!(output.contains("null"), "{output}");
    let script = "grep ^Seccomp: /proc/self/status";
    let output = podman.once(
        &["--security-opt", "seccomp=unconfined"],
        &["sh", "-c", script],
    );
    assert_eq!(output.expect(0), "Seccomp:\t0\n");
    if Path::new("/dev/fuse").exists() {
        let device = ["--device", "/dev/fuse:/dev/mine:r"];
        let script = ": </dev/mine && echo opened; : >/dev/mine";
        let outcome = podman.once(&device, &["sh", "-c", script]);
        assert_eq!(outcome.text(), "opened\n", "{outcome:?}");
        assert!(outcome.stderr.contains("not permitted"), "{outcome:?}");
    }
    podman.clear();
}

fn namespaces_of_others(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(&["--hostname", "first"], "sleep 1000");
    let flags = [
        "--pid",
        "container:c",
        "--ipc",
        "container:c",
        "--network",
        "container:c",
    ];
    let show = "for n in pid ipc net; do readlink /proc/self/ns/$n; done";
    let theirs = podman.ok(&["exec", "c", "sh", "-c", show]);
    assert_eq!(podman.once(&flags, &["sh", "-c", show]).expect(0), theirs);
    let output = podman.once(&flags, &["ps"]).expect(0);
    assert!(output.contains("sleep 1000"), "{output}");
    let flags = [
        "--pid",
        "host",
        "--ipc",
        "host",
        "--network",
        "host",
        "--uts",
        "host",
    ];
    let output = podman.once(&flags, &["sh", "-c", show]).expect(0);
    for (line, kind) in output.lines().zip(["pid", "ipc", "net"]) {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_eq!(ours.to_str(), Some(line));
    }
    podman.clear();
}

fn a_user_namespace(case: &Case) {
    let podman = Podman::new(case);
    let flags = ["--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000"];
    let script =
        "id -u; tr -s ' ' </proc/self/uid_map; stat -c %u /bin/busybox; touch /x && stat -c %u /x";
    let output = podman.once(&flags, &["sh", "-c", script]).expect(0);
    assert_eq!(output, "0\n 0 100000 5000\n0\n0\n");
    podman.clear();
}

fn a_container_from_create_to_remove(case: &Case) {
    let podman = Podman::new(case);
    let parent = podman.cgroup.path();
    podman.ok(&[
        "create",
        "--name",
        "c",
        "--cgroup-parent",
        parent,
        BUSYBOX,
        "sh",
        "-c",
        "echo runs; exit 3",
    ]);
    assert_eq!(podman.inspect("{{.State.Status}}"), "created");
    podman.ok(&["init", "c"]);
    assert_eq!(podman.inspect("{{.State.Status}}"), "initialized");
    let outcome = podman.run(&["start", "--attach", "c"]);
    assert_eq!(outcome.expect(3), "runs\n");
    assert_eq!(podman.inspect("{{.State.ExitCode}}"), "3");
    podman.ok(&["rm", "c"]);
    podman.clear();
}

fn an_image_of_debian(case: &Case) {
    let podman = Podman::without_image(case);
    podman.import(&image::debian(case), DEBIAN);
    let parent = podman.cgroup.path();
    let run = |words: &[&str]| {
        let all = [
            &["run", "--rm", "--cgroup-parent", parent, DEBIAN][..],
            words,
        ]
        .concat();
        podman.run(&all)
    };
    let script =
        "set -e; . /etc/os-release; echo $VERSION_CODENAME; dpkg -l bash | tail -n 1 | cut -c 1-2
                  perl -e 'print join(\",\", map { $_ * $_ } 1 .. 5), \"\\n\"'
                  useradd -m someone; su someone -c 'id -un; touch ~/file; ls -l ~ | wc -l'";
    let outcome = run(&["bash", "-c", script]);
    assert_eq!(
        outcome.expect(0),
        "bookworm\nii\n1,4,9,16,25\nsomeone\n2\n",
        "{}",
        outcome.stderr
    );
    let stressors = "stress-ng --timeout 20 --quiet --cpu 1 --cpu-ops 20 --fork 1 --fork-ops 100 \
                     --pipe 1 --pipe-ops 1000 --temp-path /tmp && echo done";
    assert_eq!(run(&["sh", "-c", stressors]).expect(0), "done\n");
    podman.clear();
}
