//! Docker, with a daemon of the test's own, which has no network unless it runs in a namespace made
//! for it.

mod daemon;

use std::fs;
use std::process::Command;

use nacre_tests::console::in_shell;
use nacre_tests::network::Network;
use nacre_tests::{Case, Isolation};

use self::daemon::{Docker, docker};
use super::image::{self, BUSYBOX};
use super::workload::{COUNTS, ORPHANS, TALKS, UNFIT, answer, talk, unfit};

nacre_tests::tests![
    run_and_its_exit_status,
    a_detached_life,
    a_volume_exec_and_stop,
    copies_in_and_out,
    pause,
    limits_volumes_and_privileges,
    an_image_with_a_user,
    an_init,
    a_terminal,
    typing_at_a_terminal,
    networks,
];

fn run_and_its_exit_status(case: &Case) {
    let docker = Docker::start(case);
    let outcome = docker.once(&[], &["sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!(outcome.expect(9), "out\n");
    assert_eq!(outcome.stderr, "err\n");
    let outcome = docker.once(&[], &["nonesuch"]);
    outcome.expect(127);
    docker.once(&[], &["/etc/passwd"]).expect(126);
    docker.once(&[], &["/etc"]).expect(126);
    let mut running = case.spawn(self::docker(
        case,
        &["run", "--rm", "-i", BUSYBOX, "wc", "-c"],
    ));
    std::io::Write::write_all(running.stdin.as_mut().unwrap(), b"12345").unwrap();
    assert_eq!(running.finish().expect(0), "5\n");
}

fn a_detached_life(case: &Case) {
    let docker = Docker::start(case);
    let script =
        "echo started; trap 'exit 5' TERM; trap 'echo usr1' USR1; while :; do sleep 0.05; done";
    docker.ok(&[
        "run", "--detach", "--name", "c1", BUSYBOX, "sh", "-c", script,
    ]);
    case.wait_for("the log", || docker.ok(&["logs", "c1"]) == "started\n");
    let outcome = docker.run(&["exec", "c1", "sh", "-c", "echo inside; exit 3"]);
    assert_eq!(outcome.expect(3), "inside\n");
    let missing = docker.run(&["exec", "c1", "nonesuch"]);
    assert!(matches!(missing.status(), Some(126 | 127)), "{missing:?}");
    assert!(
        missing
            .text()
            .contains("executable file not found in $PATH"),
        "{missing:?}"
    );
    docker.ok(&["exec", "c1", "sh", "-c", UNFIT]);
    for (program, status) in unfit() {
        docker.run(&["exec", "c1", program]).expect(status);
    }
    let flags = [
        "exec",
        "--user",
        "12:34",
        "--workdir",
        "/tmp",
        "c1",
        "sh",
        "-c",
        "id -u; pwd",
    ];
    assert_eq!(docker.ok(&flags), "12\n/tmp\n");
    docker.ok(&["kill", "--signal", "USR1", "c1"]);
    case.wait_for("the signal", || docker.ok(&["logs", "c1"]).contains("usr1"));
    // Docker shows the host's processes of the container.
    let shown = match case.isolation() {
        Isolation::Process => "echo started",
        Isolation::Vm => "nacre-vm",
    };
    let processes = docker.ok(&["top", "c1"]);
    assert!(processes.contains(shown), "{processes}");
    assert!(!processes.contains("dockerd"), "{processes}");
    docker.ok(&["stats", "--no-stream", "c1"]);
    docker.ok(&["update", "--memory", "64m", "--memory-swap", "64m", "c1"]);
    let shows = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max";
    assert_eq!(docker.ok(&["exec", "c1", "sh", "-c", shows]), "67108864\n");
    docker.ok(&["stop", "c1"]);
    assert_eq!(docker.inspect("{{.State.ExitCode}}"), "5");
    docker.ok(&["start", "c1"]);
    docker.ok(&["kill", "c1"]);
    assert_eq!(docker.ok(&["wait", "c1"]), "137\n");
    docker.ok(&["start", "c1"]);
    docker.ok(&["restart", "--time", "10", "c1"]);
    assert_eq!(docker.inspect("{{.State.Status}}"), "running");
    docker.ok(&["rm", "--force", "c1"]);
}

/// A container's life in a few commands, for where each takes long.
fn a_volume_exec_and_stop(case: &Case) {
    let docker = Docker::start(case);
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    let volume = format!("{}:/data", data.display());
    let script = "trap 'exit 5' TERM; echo started; while :; do sleep 0.05; done";
    let run = ["run", "--detach", "--name", "c1", "-v", &volume, BUSYBOX];
    docker.ok(&[&run[..], &["sh", "-c", script]].concat());
    case.wait_for("the log", || docker.ok(&["logs", "c1"]) == "started\n");
    let script = "echo new >/data/new; exit 3";
    docker.run(&["exec", "c1", "sh", "-c", script]).expect(3);
    assert_eq!(fs::read_to_string(data.join("new")).unwrap(), "new\n");
    docker.ok(&["stop", "c1"]);
    assert_eq!(docker.inspect("{{.State.ExitCode}}"), "5");
    docker.ok(&["rm", "c1"]);
}

fn copies_in_and_out(case: &Case) {
    let docker = Docker::start(case);
    let place = |name: &str| case.directory().join(name).to_str().unwrap().to_owned();
    for name in ["data", "send/tree", "got"] {
        fs::create_dir_all(place(name)).unwrap();
    }
    fs::write(place("data/file"), "in the volume").unwrap();
    fs::write(place("send/file"), "sent").unwrap();
    fs::write(place("send/tree/inner"), "sent with it").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", place("send/tree/link")).unwrap();
    let volume = format!("{}:/data", place("data"));
    let script = "mkdir /tree; echo made >/made; echo inner >/tree/inner; echo x >/scratch/x
                  ln -s /nonesuch /tree/link; echo started; exec sleep 1000";
    let run = [
        "run", "--detach", "--name", "c1", "-v", &volume, "--tmpfs", "/scratch", BUSYBOX,
    ];
    docker.ok(&[&run[..], &["sh", "-c", script]].concat());
    case.wait_for("the log", || docker.ok(&["logs", "c1"]) == "started\n");
    let shell = |script: &str| docker.ok(&["exec", "c1", "sh", "-c", script]);

    for (from, to) in [
        ("send/file", "/sent"),
        ("send/tree", "/sent-tree"),
        ("send/file", "/data/sent"),
    ] {
        docker.ok(&["cp", &place(from), &format!("c1:{to}")]);
    }
    let script = "cat /sent /sent-tree/inner /data/sent; readlink /sent-tree/link";
    assert_eq!(shell(script), "sentsent with itsent/etc/passwd\n");
    for (from, to) in [("/made", "made"), ("/tree", "tree"), ("/data", "data")] {
        docker.ok(&["cp", &format!("c1:{from}"), &place(&format!("got/{to}"))]);
    }
    let read = |name: &str| fs::read_to_string(place(name)).unwrap();
    let read = ["got/made", "got/tree/inner", "got/data/file", "data/sent"].map(read);
    assert_eq!(read, ["made\n", "inner\n", "in the volume", "sent"]);
    let link = fs::read_link(place("got/tree/link")).unwrap();
    assert_eq!(link.to_str(), Some("/nonesuch"));

    // A tmpfs exists only in the container, in both isolations.
    let outcome = docker.run(&["cp", "c1:/scratch/x", &place("got/x")]);
    assert_ne!(outcome.status(), Some(0));
    let _ = docker.run(&["cp", &place("send/file"), "c1:/scratch/new"]);
    assert_eq!(shell("ls /scratch"), "x\n");
    // No file of the host can be reached.
    let outcome = docker.run(&[
        "cp",
        &format!("c1:{}", place("send/file")),
        &place("got/none"),
    ]);
    assert_ne!(outcome.status(), Some(0));
    assert!(!std::path::Path::new("/sent").exists());
    docker.ok(&["rm", "--force", "c1"]);
}

fn pause(case: &Case) {
    let docker = Docker::start(case);
    let run = ["run", "--detach", "--name", "c1", BUSYBOX];
    docker.ok(&[&run[..], &["sh", "-c", COUNTS]].concat());
    let log = || docker.ok(&["logs", "c1"]);
    case.wait_for("the log", || log().contains("3\n"));
    docker.ok(&["pause", "c1"]);
    assert_eq!(docker.inspect("{{.State.Status}}"), "paused");
    let before = case.wait_until_still(log);
    docker.run(&["exec", "c1", "true"]).refused_somehow();
    docker.ok(&["unpause", "c1"]);
    case.wait_for("more numbers", || log().len() > before.len());
    docker.ok(&["stop", "c1"]);
    assert_eq!(docker.inspect("{{.State.ExitCode}}"), "6");
    docker.ok(&["rm", "c1"]);
}

fn limits_volumes_and_privileges(case: &Case) {
    let docker = Docker::start(case);
    a_memory_limit(&docker);
    volumes(&docker);
    a_user_without_rights(&docker);
    privileges(&docker);
    health(&docker);
}

fn a_memory_limit(docker: &Docker<'_>) {
    let limit = [
        "--memory",
        "32m",
        "--memory-swap",
        "32m",
        "--pids-limit",
        "20",
    ];
    let takes = "sleep 0.5; exec dd if=/dev/zero of=/dev/null bs=100M count=1";
    let words = ["--name", "c1", BUSYBOX, "sh", "-c", takes];
    docker
        .run(&[&["run"], &limit[..], &words].concat())
        .expect(137);
    assert_eq!(docker.inspect("{{.State.OOMKilled}}"), "true");
    docker.ok(&["rm", "c1"]);
}

fn volumes(docker: &Docker<'_>) {
    let data = docker.case.directory().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "of the host\n").unwrap();
    let bind = format!("{}:/data:ro", data.display());
    let outcome = docker.once(
        &["-v", &bind],
        &["sh", "-c", "cat /data/file; touch /data/x"],
    );
    assert_eq!(outcome.expect(1), "of the host\n");
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    docker
        .once(&["-v", "named:/v"], &["sh", "-c", "echo kept >/v/file"])
        .expect(0);
    assert_eq!(
        docker
            .once(&["-v", "named:/v"], &["cat", "/v/file"])
            .expect(0),
        "kept\n"
    );
    docker.ok(&["volume", "rm", "named"]);
}

fn a_user_without_rights(docker: &Docker<'_>) {
    let flags = [
        "--user",
        "1000:1001",
        "--read-only",
        "--cap-drop",
        "all",
        "--tmpfs",
        "/t",
    ];
    let script =
        "id -u; id -g; touch /t/x; grep -E '^(CapEff|Seccomp):' /proc/self/status; touch /x";
    let outcome = docker.once(&flags, &["sh", "-c", script]);
    assert_eq!(
        outcome.expect(1),
        "1000\n1001\nCapEff:\t0000000000000000\nSeccomp:\t2\n"
    );
}

fn privileges(docker: &Docker<'_>) {
    let mounts = ["mount", "-t", "tmpfs", "t", "/tmp"];
    match docker.case.isolation() {
        // It asks for all capabilities, and this host may not have them all.
        Isolation::Process if !has_all_capabilities() => {
            let outcome = docker.once(&["--privileged"], &mounts);
            outcome.expect(125);
            let says = |words| outcome.stderr.contains(words);
            // The second wording is runc's.
            assert!(says("CAP_") || says("apply caps"), "{outcome:?}");
        }
        Isolation::Process => drop(docker.once(&["--privileged"], &mounts).expect(0)),
        Isolation::Vm => {
            let outcome = docker.once(&["--privileged"], &mounts);
            outcome.refused_somehow();
            let message = "is a device of the host";
            assert!(outcome.stderr.contains(message), "{outcome:?}");
            // These give the same rights without the host's devices, as in docs/engines.md.
            let flags = [
                "--cap-add=ALL",
                "--security-opt=seccomp=unconfined",
                "--security-opt=systempaths=unconfined",
            ];
            docker.once(&flags, &mounts).expect(0);
        }
    }
}

fn health(docker: &Docker<'_>) {
    let healthy = [
        "--health-cmd",
        "true",
        "--health-interval",
        "1s",
        "--name",
        "c1",
    ];
    docker.ok(&[
        &["run", "--detach"],
        &healthy[..],
        &[BUSYBOX, "sleep", "1000"],
    ]
    .concat());
    docker.case.wait_for("health", || {
        docker.inspect("{{.State.Health.Status}}") == "healthy"
    });
    docker.ok(&["rm", "--force", "c1"]);
}

fn an_image_with_a_user(case: &Case) {
    let docker = Docker::start(case);
    let archive = image::busybox(case);
    let name = "localhost/user:test";
    let change = ["import", "--change", "USER 1234:1235"];
    docker.ok(&[&change[..], &[archive.to_str().unwrap(), name]].concat());
    let script = "id -u; id -g; touch /x 2>/dev/null || echo not there";
    let output = docker.ok(&["run", "--rm", name, "sh", "-c", script]);
    assert_eq!(output, "1234\n1235\nnot there\n");
}

fn an_init(case: &Case) {
    case.needs("docker-init", "docker.io");
    let docker = Docker::start(case);
    let output = docker.once(&["--init"], &["sh", "-c", ORPHANS]).expect(7);
    assert_eq!(output, "docker-init\nreaped\n");
    // The init passes a signal and a status on.
    let script = "trap 'exit 5' TERM; echo $$; while :; do sleep 0.05; done";
    let words = ["--init", "--name", "c1", BUSYBOX, "sh", "-c", script];
    docker.ok(&[&["run", "--detach"], &words[..]].concat());
    case.wait_for("the log", || docker.ok(&["logs", "c1"]).ends_with('\n'));
    assert_ne!(docker.ok(&["logs", "c1"]), "1\n");
    docker.ok(&["stop", "c1"]);
    assert_eq!(docker.inspect("{{.State.ExitCode}}"), "5");
    docker.ok(&["rm", "c1"]);
}

fn has_all_capabilities() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    let line = status.lines().find(|line| line.starts_with("CapBnd:"));
    let bits = line
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap();
    let bits = u64::from_str_radix(bits, 16).unwrap();
    bits.count_ones() == last.trim().parse::<u32>().unwrap() + 1
}

fn a_terminal(case: &Case) {
    let docker = Docker::start(case);
    // The terminal gets its size a moment after the start.
    let script = "tty; while [ \"$(stty size)\" != '30 90' ]; do sleep 0.05; done; exit 4";
    let words = ["run", "--rm", "-it", BUSYBOX, "sh", "-c", script];
    let run = in_shell(&self::docker(case, &words));
    let session = format!("stty rows 30 cols 90; {run}");
    let output = case.at_a_terminal(&session).finish().expect(4);
    assert!(output.contains("/dev/pts/0"), "{output}");
    docker.ok(&[
        "run",
        "--detach",
        "--tty",
        "--name",
        "c1",
        BUSYBOX,
        "sh",
        "-c",
        "tty; sleep 1000",
    ]);
    case.wait_for("the log", || {
        docker.ok(&["logs", "c1"]).contains("/dev/pts/0")
    });
    let exec = self::docker(case, &["exec", "-it", "c1", "sh", "-c", "tty; exit 3"]);
    let output = case.at_a_terminal(&in_shell(&exec)).finish().expect(3);
    assert!(output.contains("/dev/pts/1"), "{output}");
    docker.ok(&["rm", "--force", "c1"]);
}

fn typing_at_a_terminal(case: &Case) {
    let docker = Docker::start(case);
    let run = ["run", "--rm", "-it", BUSYBOX, "sh", "-c", TALKS];
    talk(case, &self::docker(case, &run), "/dev/pts/0");
    let sleeps = ["run", "--detach", "--name", "c1", BUSYBOX, "sleep", "1000"];
    docker.ok(&sleeps);
    let exec = ["exec", "-it", "c1", "sh", "-c", TALKS];
    talk(case, &self::docker(case, &exec), "/dev/pts/0");
    docker.ok(&["rm", "--force", "c1"]);
}

fn networks(case: &Case) {
    let docker = Docker::start_in(case, Some(Network::new(case)));
    docker.ok(&["network", "create", "--subnet", "10.72.1.0/24", "one"]);
    docker.ok(&["network", "create", "--subnet", "10.72.2.0/24", "two"]);
    let server = "exec nc -ll -p 80 -e echo of the server";
    let flags = ["--network", "one", "--ip", "10.72.1.9", "-p", "8080:80"];
    let words = [BUSYBOX, "sh", "-c", server];
    docker.ok(&[&["run", "--detach", "--name", "c1"], &flags[..], &words].concat());
    let ask = |network: &str, server: &str| {
        let asks = ["nc", "-w", "3", server, "80"];
        answer(&docker.once(&["--network", network], &asks))
    };
    let says = "of the server\n";
    let answered = Some(says.to_owned());
    case.wait_for("the server", || ask("one", "10.72.1.9") == answered);
    // Docker's name server knows the name, but is on the namespace's loopback, not the guest's.
    let by_name = match case.isolation() {
        Isolation::Process => answered.clone(),
        Isolation::Vm => None,
    };
    assert_eq!(ask("one", "c1"), by_name);
    let hosts = ["--network", "one", "--add-host", "c1:10.72.1.9"];
    let output = docker.once(&hosts, &["nc", "-w", "3", "c1", "80"]);
    assert_eq!(output.expect(0), says);
    for network in ["two", "bridge", "none"] {
        assert_eq!(ask(network, "10.72.1.9"), None, "{network}");
    }
    // Connects to the published port.
    let mut client = case.mark(Command::new("busybox"));
    client.args(["nc", "-w", "3", "127.0.0.1", "8080"]);
    let client = docker.network.as_ref().unwrap().enter(&client);
    assert_eq!(case.spawn(client).finish().expect(0), says);
    // A network is connected while the container runs, and disconnected.
    docker.ok(&["network", "connect", "--ip", "10.72.2.9", "two", "c1"]);
    case.wait_for("the other interface", || {
        ask("two", "10.72.2.9") == answered
    });
    docker.ok(&["network", "disconnect", "two", "c1"]);
    assert_eq!(ask("two", "10.72.2.9"), None);
    docker.ok(&["rm", "--force", "c1"]);
    docker.ok(&["network", "rm", "one", "two"]);
}
