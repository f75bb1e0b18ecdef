//! The process, from its start to its end, and the container's meanwhile.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use nacre_tests::Case;
use nacre_tests::Isolation::Process;
use nacre_tests::nacre::is_reference;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{exec, shell};

nacre_tests::tests![
    streams_and_status,
    standard_input_arrives,
    a_program_that_isnt_there,
    any_other_failure,
    detached,
    signals_are_passed_on,
    the_containers_end_is_its_end,
    its_end_isnt_the_containers,
    what_it_wrote_before_the_containers_end_is_read_after_it: Vm,
    it_outlives_its_input,
    much_through_its_streams,
    a_detached_one_is_killed_by_its_pid,
    in_what_is_created_but_not_in_what_has_ended,
    in_a_paused_container,
    many_at_once,
];

fn streams_and_status(case: &Case) {
    case.idle();
    for status in [0, 1, 42, 255] {
        let script = format!("echo out; echo err >&2; exit {status}");
        let outcome = exec(case, &[], &["sh", "-c", &script]);
        assert_eq!(outcome.expect(status), "out\n");
        assert_eq!(outcome.stderr, "err\n");
    }
    exec(case, &[], &["sh", "-c", "kill -9 $$"]).expect(137);
    // Flags behind the command are the command's.
    assert_eq!(exec(case, &[], &["echo", "-t", "--cwd"]).ok(), "-t --cwd\n");
    case.remove_container();
}

fn standard_input_arrives(case: &Case) {
    case.idle();
    let mut command = case.nacre();
    command.args(["exec", case.id(), "wc", "-c"]);
    let mut running = case.spawn(command);
    let bytes = vec![b'x'; 300_000];
    running.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert_eq!(running.finish().ok(), "300000\n");
    case.remove_container();
}

fn a_program_that_isnt_there(case: &Case) {
    let bundle = case.busybox().args(["sleep", "1000"]);
    let garbage = bundle.rootfs().join("garbage");
    fs::write(&garbage, "garbage").unwrap();
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o755)).unwrap();
    case.detach(&bundle);
    let message = exec(case, &[], &["nonesuch"]).refused(127);
    let not_found = "exec: \"nonesuch\": executable file not found in $PATH";
    assert!(message.contains(not_found), "{message}");
    let message = exec(case, &[], &["/no/such"]).refused(127);
    let not_there = "exec: \"/no/such\": no such file or directory";
    let is_said = |words| message.contains(words);
    assert!(
        is_said(not_there) || is_reference() && is_said("no such file or directory"),
        "{message}"
    );
    let message = exec(case, &[], &["/etc/passwd"]).refused(126);
    let denied = "exec: \"/etc/passwd\": permission denied";
    assert!(message.contains(denied), "{message}");
    let outcome = exec(case, &[], &["/garbage"]);
    assert!(
        is_reference() || outcome.status() == Some(126),
        "{outcome:?}"
    );
    assert_eq!(outcome.stderr, "exec /garbage: exec format error\n");
    assert_eq!(case.status(), "running");
    case.remove_container();
}

fn any_other_failure(case: &Case) {
    case.idle();
    let message = exec(case, &["--cwd", "/no/such"], &["true"]).refused(255);
    let why = "process.cwd /no/such: No such file";
    assert!(is_reference() || message.contains(why), "{message}");
    assert!(!case.busybox().rootfs().join("no").exists());
    for flags in [
        ["--user", "nobody"],
        ["--pid-file", "/no/such/file"],
        ["--detach", "--tty"],
        ["--detach", "--pid-file=/no/such/file"],
    ] {
        exec(case, &flags, &["true"]).refused(255);
    }
    let none = format!("{}-none", case.id());
    let message = case.command(&["exec", &none, "true"]).refused(255);
    assert!(message.contains("container does not exist"), "{message}");
    assert_eq!(case.status(), "running");
    case.remove_container();
}

fn detached(case: &Case) {
    case.idle();
    let file = case.directory().join("exec-pid");
    let mut command = case.nacre();
    command
        .args(["exec", "--detach", "--pid-file"])
        .arg(&file)
        .args([case.id(), "sh", "-c", "echo runs; exec sleep 1000"]);
    assert_eq!(case.leave(command), 0, "{}", case.output());
    case.wait_for_output("runs");
    let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
    // The script prints its line before it becomes another program.
    case.wait_for("the program to be sleep", || {
        let table = case.command(&["ps", case.id(), "-o", "pid,args"]).ok();
        table.matches("sleep 1000").count() == 2
    });
    // In a VM the pid is that of the stand-in for the guest's process.
    if case.isolation() == Process {
        let outcome = case.command(&["ps", "--format", "json", case.id()]);
        let pids: Value = serde_json::from_str(&outcome.ok()).unwrap();
        let pids = pids.as_array().unwrap();
        assert_eq!(pids.len(), 2, "{pids:?}");
        assert!(pids.contains(&pid.into()), "{pids:?}");
    }

    // `--pid-file` isn't only for detached processes.
    fs::remove_file(&file).unwrap();
    let flags = ["--pid-file", file.to_str().unwrap()];
    exec(case, &flags, &["true"]).expect(0);
    let again: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
    assert_ne!(again, pid);
    case.remove_container();
}

fn signals_are_passed_on(case: &Case) {
    case.idle();
    let mut command = case.nacre();
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready
                  while :; do sleep 0.02; done";
    command.args(["exec", case.id(), "sh", "-c", script]);
    let mut running = case.spawn(command);
    running.wait_for_line("ready");
    running.signal(Signal::SIGUSR1);
    running.wait_for_line("usr1");
    running.signal(Signal::SIGTERM);
    running.wait_for_line("term");
    running.finish().expect(9);
    case.remove_container();
}

fn the_containers_end_is_its_end(case: &Case) {
    case.idle();
    let mut command = case.nacre();
    command.args(["exec", case.id(), "sh", "-c", "echo ready; exec sleep 1000"]);
    let mut running = case.spawn(command);
    running.wait_for_line("ready");
    case.command(&["kill", case.id(), "KILL"]).ok();
    running.finish().expect(137);
    case.wait_for_status("stopped");
    case.remove_container();
}

/// A VM buffers much, and the process ends; on the host the process waits for the reader.
fn what_it_wrote_before_the_containers_end_is_read_after_it(case: &Case) {
    const MUCH: usize = 300_000;
    let bundle = case.busybox().args(["sleep", "1000"]);
    case.detach(&bundle);
    let mut command = case.nacre();
    let script = format!("head -c {MUCH} /dev/zero && echo >/root/written");
    command.args(["exec", case.id(), "sh", "-c", &script]);
    let running = case.spawn(command);
    let written = bundle.rootfs().join("root/written");
    case.wait_for("the output", || written.exists());
    // What is killed with its container has no status of its own.
    case.wait_for("its end", || !shell(case, &[], "ps").contains("head -c"));
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    assert_eq!(running.finish().expect(0).len(), MUCH);
    case.command(&["delete", case.id()]).ok();
}

fn its_end_isnt_the_containers(case: &Case) {
    let pid = case.idle();
    // What the process leaves behind stays until the container ends.
    shell(case, &[], "sleep 1000 >/dev/null 2>&1 </dev/null & exit 0");
    assert_eq!(case.inspect()["pid"], pid.as_raw());
    assert!(shell(case, &[], "ps").matches("sleep 1000").count() == 2);
    case.remove_container();
}

fn it_outlives_its_input(case: &Case) {
    case.idle();
    let mut command = case.nacre();
    let script = "cat; echo the end; sleep 0.5; echo later; exit 4";
    command.args(["exec", case.id(), "sh", "-c", script]);
    let mut running = case.spawn(command);
    running.stdin.take().unwrap().write_all(b"input\n").unwrap();
    assert_eq!(running.finish().expect(4), "input\nthe end\nlater\n");
    // It doesn't need any output either.
    let mut command = case.nacre();
    let script = "exec >&- 2>&-; sleep 0.2; exit 6";
    command.args(["exec", case.id(), "sh", "-c", script]);
    case.spawn(command).finish().expect(6);
    case.remove_container();
}

fn much_through_its_streams(case: &Case) {
    case.idle();
    let path = case.directory().join("much");
    let bytes: Vec<u8> = (0..1u32 << 20).map(|i| (i * 7 / 3) as u8).collect();
    fs::write(&path, &bytes).unwrap();
    let mut command = case.nacre();
    command.args(["exec", case.id(), "cat"]);
    let out = case.directory().join("out");
    command
        .stdin(fs::File::open(&path).unwrap())
        .stdout(fs::File::create(&out).unwrap());
    assert!(command.status().unwrap().success());
    assert!(fs::read(&out).unwrap() == bytes);
    case.remove_container();
}

fn a_detached_one_is_killed_by_its_pid(case: &Case) {
    case.idle();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let file = case.directory().join("exec-pid");
        let mut command = case.nacre();
        command
            .args(["exec", "--detach", "--pid-file"])
            .arg(&file)
            .args([case.id(), "sleep", "1234"]);
        assert_eq!(case.leave(command), 0, "{}", case.output());
        let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
        let is_there = || {
            let table = case.command(&["ps", case.id(), "-o", "pid,args"]).ok();
            table.contains("sleep 1234")
        };
        case.wait_for("the process to run", is_there);
        kill(Pid::from_raw(pid), signal).unwrap();
        case.wait_for("the process to end", || !is_there());
    }
    assert_eq!(case.status(), "running");
    case.remove_container();
}

fn in_what_is_created_but_not_in_what_has_ended(case: &Case) {
    case.create(&case.busybox().shell("cat /made; sleep 1000"));
    // The container has namespaces already.
    assert_eq!(exec(case, &[], &["hostname"]).ok(), "nacre\n");
    shell(case, &[], "echo the first >/made");
    case.command(&["start", case.id()]).ok();
    case.wait_for_output("the first");
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    exec(case, &[], &["true"]).refused_somehow();
    case.remove_container();
}

fn in_a_paused_container(case: &Case) {
    case.idle();
    case.command(&["pause", case.id()]).ok();
    exec(case, &[], &["true"]).refused_somehow();
    // The process waits with the others.
    let mut command = case.nacre();
    command.args(["exec", "--ignore-paused", case.id(), "echo", "at last"]);
    let mut running = case.spawn(command);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(running.is_running());
    case.command(&["resume", case.id()]).ok();
    assert_eq!(running.finish().ok(), "at last\n");
    case.remove_container();
}

/// Each writes more than a pipe or a window holds.
fn many_at_once(case: &Case) {
    let pid = case.idle();
    exec(case, &[], &["true"]).ok();
    // Counts those of a VM's sandbox process, which has one for each stream.
    let sockets = || {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:"));
        sockets.count()
    };
    let before = sockets();
    std::thread::scope(|scope| {
        for n in 0..50 {
            scope.spawn(move || {
                let script = format!("yes line {n} | head -n 20000; exit {n}");
                let outcome = exec(case, &[], &["sh", "-c", &script]);
                let expected = format!("line {n}\n").repeat(20_000);
                assert!(
                    outcome.expect(n) == expected,
                    "{n}: {:?}",
                    outcome.stdout.len()
                );
            });
        }
    });
    case.wait_for("the end of their streams", || sockets() == before);
    let listed = exec(case, &[], &["ls", "/proc"]).ok();
    let processes = listed.lines().filter(|name| name.parse::<u32>().is_ok());
    // The first process and the one that lists them.
    assert_eq!(processes.count(), 2, "{listed}");
    case.remove_container();
}
