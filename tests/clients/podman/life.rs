//! The life of a container under Podman.

use std::process::Command;

use nacre_tests::console::in_shell;
use nacre_tests::vm::{self, Role};
use nacre_tests::{Case, Isolation};
use nix::sys::signal::{Signal, kill};

use super::super::image::BUSYBOX;
use super::super::workload::{COUNTS, TALKS, UNFIT, talk, unfit};
use super::Podman;

nacre_tests::tests![
    run_and_its_exit_status,
    standard_input,
    a_detached_life,
    exec,
    terminals,
    typing_at_a_terminal,
    stop_and_kill,
    pause,
    a_guest_that_stands_still_is_removed: Vm,
    a_container_from_create_to_remove,
];

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
    podman.once(&[], &["/etc"]).expect(126);
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
    // By default, Podman shows the host's processes that are in the container's namespaces.
    let columns = match case.isolation() {
        Isolation::Process => &[][..],
        Isolation::Vm => &["-o", "pid,args"],
    };
    let processes = podman.ok(&[&["top", "c"], columns].concat());
    assert!(processes.contains("echo started"), "{processes}");
    let stats = podman.ok(&[
        "stats",
        "--no-stream",
        "--format",
        "{{.PIDS}} {{.MemUsage}}",
        "c",
    ]);
    // For a VM, those of the sandbox process, the file server and QEMU.
    let count = stats.split(' ').next().unwrap().parse::<u32>();
    let most = match case.isolation() {
        Isolation::Process => 3,
        Isolation::Vm => 30,
    };
    assert!(
        count.is_ok_and(|count| (1..=most).contains(&count)),
        "{stats}"
    );
    podman.ok(&["stop", "c"]);
    assert_eq!(
        podman.inspect("{{.State.Status}} {{.State.ExitCode}}"),
        "exited 5"
    );
    // The container is started once more, with the same root.
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
    podman.ok(&["exec", "c", "sh", "-c", UNFIT]);
    for (program, status) in unfit() {
        podman.run(&["exec", "c", program]).expect(status);
    }
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

/// Runs a command at a terminal of 30 rows and 90 columns.
pub(super) fn at_a_terminal(case: &Case, command: &Command) -> String {
    let session = format!("stty rows 30 cols 90; {}", in_shell(command));
    let output = case.at_a_terminal(&session).finish().expect(0);
    output.replace('\r', "")
}

/// Says which terminal it has, and the size. The terminal gets that a moment after the start.
pub(super) const ITS_SIZE: &str =
    "tty; while [ \"$(stty size)\" != '30 90' ]; do sleep 0.05; done; stty size";

fn terminals(case: &Case) {
    let podman = Podman::new(case);
    let parent = podman.cgroup.path();
    let script = ITS_SIZE;
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

fn typing_at_a_terminal(case: &Case) {
    let podman = Podman::new(case);
    let run = ["run", "--rm", "-it", "--cgroup-parent"];
    let run = [
        &run[..],
        &[podman.cgroup.path(), BUSYBOX, "sh", "-c", TALKS],
    ]
    .concat();
    talk(case, &podman.command(&run), "/dev/pts/0");
    podman.detach(&[], "sleep 1000");
    let exec = ["exec", "-it", "c", "sh", "-c", TALKS];
    talk(case, &podman.command(&exec), "/dev/pts/0");
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
    // As the first process of its pid namespace it ignores TERM, so it is killed after a while.
    podman.ok(&["stop", "--time", "1", "c"]);
    assert_eq!(podman.inspect("{{.State.ExitCode}}"), "137");
    podman.clear();
}

fn pause(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(&[], COUNTS);
    podman.wait_for_log("3\n");
    podman.ok(&["pause", "c"]);
    assert_eq!(podman.inspect("{{.State.Status}}"), "paused");
    let before = case.wait_until_still(|| podman.ok(&["logs", "c"]));
    podman.run(&["exec", "c", "true"]).refused_somehow();
    podman.ok(&["unpause", "c"]);
    case.wait_for("more numbers", || {
        podman.ok(&["logs", "c"]).len() > before.len()
    });
    podman.ok(&["pause", "c"]);
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

/// QEMU is stopped, or without it the monitor.
fn a_guest_that_stands_still_is_removed(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(&[], "echo started; exec sleep 1000");
    podman.wait_for_log("started");
    let role = if case.is_emulated() {
        Role::Qemu
    } else {
        Role::Monitor
    };
    let id = podman.inspect("{{.Id}}");
    kill(vm::with_role(&id, role)[0], Signal::SIGSTOP).unwrap();
    podman.ok(&["rm", "--force", "--time", "0", "c"]);
    podman.clear();
}
