//! The flags of `run` and `create`.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nacre_tests::console::ConsoleSocket;
use nacre_tests::nacre::is_reference;
use nacre_tests::{Bundle, Case};

nacre_tests::tests![
    what_ran_is_gone,
    unless_it_is_kept,
    a_pid_file,
    a_pid_file_that_cant_be_written,
    a_pidfd,
    further_descriptors: Process,
    no_further_descriptors_in_a_vm: Vm,
    descriptors_that_arent_there,
    no_pivot,
    no_new_keyring,
    the_bundle_is_the_working_directory,
    the_log_has_the_error,
    the_log_has_what_is_left_out,
    the_log_has_the_steps,
];

fn run(case: &Case, flags: &[&str], bundle: &Bundle) -> Command {
    let mut command = case.nacre();
    command
        .arg("run")
        .args(flags)
        .arg("--bundle")
        .arg(bundle.write());
    command.arg(case.id());
    command
}

fn what_ran_is_gone(case: &Case) {
    assert_eq!(case.run(&case.busybox().shell("exit 4")).expect(4), "");
    case.command(&["state", case.id()]).refused(1);
}

fn unless_it_is_kept(case: &Case) {
    let bundle = case.busybox().shell("exit 4");
    case.spawn(run(case, &["--keep"], &bundle))
        .finish()
        .expect(4);
    assert_eq!(case.status(), "stopped");
    case.spawn(run(case, &[], &bundle)).finish().refused(1);
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
}

fn a_pid_file(case: &Case) {
    let path = case.directory().join("pid-file");
    let bundle = case.busybox().shell("echo ready; cat");
    let flags = ["--pid-file", path.to_str().unwrap()];
    let mut running = case.spawn(run(case, &flags, &bundle));
    running.wait_for_line("ready");
    let pid = fs::read_to_string(&path).unwrap();
    assert_eq!(case.inspect()["pid"].to_string(), pid);
    running.finish().expect(0);
}

fn a_pid_file_that_cant_be_written(case: &Case) {
    let bundle = case.busybox().shell("sleep 1000");
    let flags = ["--detach", "--pid-file", "/no/such/directory/pid"];
    let outcome = case.spawn(run(case, &flags, &bundle)).finish();
    outcome.refused_somehow();
    assert_eq!(case.command(&["list", "--quiet"]).ok(), "");
}

/// Passes a file to a command as descriptor 3.
pub(super) fn with_descriptor_3(mut command: Command, file: &fs::File) -> Command {
    let from = file.as_raw_fd();
    // SAFETY: these calls may be made between fork and exec, and `from` is still open then.
    unsafe {
        command.pre_exec(move || {
            // A file that already has the number would be closed at the exec.
            let done = match from {
                3 => libc::fcntl(3, libc::F_SETFD, 0),
                _ => libc::dup2(from, 3),
            };
            match done {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
    command
}

/// The pidfd refers to the process whose pid is in the pid file.
fn a_pidfd(case: &Case) {
    if is_reference() {
        case.ignore("runc has the flag only from version 1.2 on");
    }
    let path = case.directory().join("pid-file");
    let socket = ConsoleSocket::listen(case.directory());
    let sockets = socket.path().to_str().unwrap();
    let flags = [
        "--pid-file",
        path.to_str().unwrap(),
        "--pidfd-socket",
        sockets,
    ];
    let of_told = |name: &str| {
        let (told, pidfd) = socket.receive_descriptor();
        assert!(told == name, "{told:?}");
        let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let info = fs::read_to_string(info).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
        assert_eq!(pid.unwrap().trim(), fs::read_to_string(&path).unwrap());
    };
    let bundle = case.busybox().args(["sleep", "1000"]);
    let mut create = case.nacre();
    create.arg("create").args(flags).arg("--bundle");
    create.arg(bundle.write()).arg(case.id());
    assert_eq!(case.leave(create), 0, "{}", case.output());
    of_told("standard");
    case.command(&["start", case.id()]).ok();
    let words = [
        &["exec", "--detach"],
        &flags[..],
        &[case.id(), "sleep", "1000"],
    ]
    .concat();
    let mut exec = case.nacre();
    exec.args(words);
    assert_eq!(case.leave(exec), 0, "{}", case.output());
    of_told("setns");
    case.command(&["exec", "--pidfd-socket", "/no/such", case.id(), "true"])
        .refused(255);
    case.remove_container();
    let mut create = case.nacre();
    create.args(["create", "--pidfd-socket", "/no/such", "--bundle"]);
    create.arg(bundle.write()).arg(case.id());
    case.spawn(create).finish().refused(1);
    assert_eq!(case.command(&["list", "-q"]).ok(), "");
}

fn further_descriptors(case: &Case) {
    let path = case.directory().join("further");
    fs::write(&path, "from descriptor 3\n").unwrap();
    let file = fs::File::open(&path).unwrap();
    let bundle = case.busybox().shell("cat <&3; ls /proc/self/fd | wc -l");
    let command = run(case, &["--preserve-fds", "1"], &bundle);
    let output = case.spawn(with_descriptor_3(command, &file)).finish().ok();
    // Descriptors: three streams, the passed one, and the directory that is being listed.
    assert_eq!(output, "from descriptor 3\n5\n");
    // Without the flag it doesn't get in.
    let bundle = case.busybox().shell("ls /proc/self/fd | wc -l");
    let command = with_descriptor_3(run(case, &[], &bundle), &file);
    assert_eq!(case.spawn(command).finish().ok(), "4\n");
}

fn no_further_descriptors_in_a_vm(case: &Case) {
    let file = fs::File::open("/dev/null").unwrap();
    let command = run(case, &["--preserve-fds", "1"], &case.busybox());
    let outcome = case.spawn(with_descriptor_3(command, &file)).finish();
    assert!(outcome.refused(1).contains("--preserve-fds"));
    // What systemd has opened belongs to the process whose pid it names.
    let mut activated = case.mark(Command::new("sh"));
    let command = run(case, &[], &case.busybox());
    activated
        .args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    let outcome = case.spawn(with_descriptor_3(activated, &file)).finish();
    assert!(outcome.refused(1).contains("LISTEN_FDS"));
}

fn descriptors_that_arent_there(case: &Case) {
    let command = run(case, &["--preserve-fds", "3"], &case.busybox());
    case.spawn(command).finish().refused_somehow();
}

fn no_pivot(case: &Case) {
    let bundle = case.busybox().shell("ls -d /bin /proc/self; touch /made");
    let output = case
        .spawn(run(case, &["--no-pivot"], &bundle))
        .finish()
        .ok();
    assert_eq!(output, "/bin\n/proc/self\n");
    assert!(bundle.rootfs().join("made").exists());
}

fn no_new_keyring(case: &Case) {
    // The container's own keyring is named by its id.
    let bundle = case
        .busybox()
        .set("/linux/maskedPaths", serde_json::json!([]));
    let bundle = bundle.shell(&format!("grep -c ' _ses.{}' /proc/keys; true", case.id()));
    for (flags, count) in [(&["--no-new-keyring"][..], "0\n"), (&[], "1\n")] {
        let seen = case.spawn(run(case, flags, &bundle)).finish().ok();
        assert_eq!(seen, count, "{flags:?}");
    }
}

fn the_bundle_is_the_working_directory(case: &Case) {
    case.busybox().shell("echo here").write();
    let mut command = case.nacre();
    command
        .args(["run", case.id()])
        .current_dir(case.directory());
    assert_eq!(case.spawn(command).finish().ok(), "here\n");
}

fn the_log_has_the_error(case: &Case) {
    case.command(&["state", case.id()]).refused(1);
    // The log can be text too, and is appended to.
    let log = case.directory().join("text-log");
    for lines in 1..3 {
        let mut command = case.mark(Command::new(nacre_tests::nacre::runtime()));
        command
            .arg("--log")
            .arg(&log)
            .arg("--root")
            .arg(case.state());
        command.args(["state", case.id()]);
        case.spawn(command).finish().refused_somehow();
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().count(), lines, "{text}");
        assert!(text.contains("level=error"), "{text}");
    }
}

/// Things that the runtime spec, and runc, want to be a warning: the container runs without them.
fn the_log_has_what_is_left_out(case: &Case) {
    let source = case.directory().join("source");
    fs::create_dir(&source).unwrap();
    let bundle = case
        .busybox()
        .push("/process/capabilities/bounding", "CAP_OF_THE_FUTURE")
        .set("/linux/resources/memory/kernel", 64 << 20)
        .mount(
            "/data",
            "bind",
            source.to_str().unwrap(),
            &["rbind", "mode=755", "size=1k", "noexec"],
        )
        .shell("grep -c ' /data .*noexec' /proc/self/mounts; sleep 1000");
    let mut running = case.start(&bundle);
    running.wait_for_line("1");
    let mut exec = case.nacre();
    exec.args(["exec", "--cap", "CAP_OF_THE_FUTURE", case.id(), "true"]);
    let exec = case.spawn(exec).finish();
    exec.expect(0);
    case.remove_container();
    let log = running.finish().log;
    if is_reference() {
        return;
    }
    for (log, words) in [
        (&log, "process.capabilities: \\\"CAP_OF_THE_FUTURE\\\""),
        (&log, "linux.resources.memory.kernel: left out"),
        (&log, "mode, size without effect on a bind mount"),
        (&exec.log, "--cap \\\"CAP_OF_THE_FUTURE\\\""),
    ] {
        let said = |line: &&str| line.contains(words) && line.contains("warning");
        assert_eq!(log.lines().filter(said).count(), 1, "{words}: {log}");
    }
}

fn the_log_has_the_steps(case: &Case) {
    let bundle = case.busybox().args(["true"]);
    let steps = |flags: &[&str]| {
        let outcome = case.spawn(run(case, flags, &bundle)).finish();
        outcome.expect(0);
        let lines = outcome.log.lines();
        let steps = lines.filter(|line| line.contains(r#""level":"debug""#));
        steps.filter(|line| line.contains(case.id())).count()
    };
    assert_eq!(steps(&[]), 0);
    // runc's messages don't name the container.
    assert!(is_reference() || steps(&["--debug"]) > 1);
}
