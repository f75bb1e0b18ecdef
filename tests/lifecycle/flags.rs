//! The flags of `run` and `create`.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nacre_tests::{Bundle, Case};

nacre_tests::tests![
    what_ran_is_gone,
    unless_it_is_kept,
    a_pid_file,
    a_pid_file_that_cant_be_written,
    further_descriptors: Process,
    no_further_descriptors_in_a_vm: Vm,
    descriptors_that_arent_there,
    no_pivot,
    no_new_keyring,
    the_bundle_is_the_working_directory,
    the_log_has_the_error,
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

/// Gives a command a file at descriptor 3.
pub(super) fn with_descriptor_3(mut command: Command, file: &fs::File) -> Command {
    let from = file.as_raw_fd();
    // SAFETY: these calls may be made between fork and exec, and `from` is still open then.
    unsafe {
        command.pre_exec(move || {
            // What already has the number would be closed at the exec.
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

fn further_descriptors(case: &Case) {
    let path = case.directory().join("further");
    fs::write(&path, "from descriptor 3\n").unwrap();
    let file = fs::File::open(&path).unwrap();
    let bundle = case.busybox().shell("cat <&3; ls /proc/self/fd | wc -l");
    let command = run(case, &["--preserve-fds", "1"], &bundle);
    let output = case.spawn(with_descriptor_3(command, &file)).finish().ok();
    // Three streams, the further one, and the directory that is being listed.
    assert_eq!(output, "from descriptor 3\n5\n");
    // Without being asked for it doesn't get in.
    let bundle = case.busybox().shell("ls /proc/self/fd | wc -l");
    let command = with_descriptor_3(run(case, &[], &bundle), &file);
    assert_eq!(case.spawn(command).finish().ok(), "4\n");
}

fn no_further_descriptors_in_a_vm(case: &Case) {
    let file = fs::File::open("/dev/null").unwrap();
    let command = run(case, &["--preserve-fds", "1"], &case.busybox());
    let outcome = case.spawn(with_descriptor_3(command, &file)).finish();
    assert!(outcome.refused(1).contains("--preserve-fds"));
    // What systemd has opened is the process's that has the number it names.
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
    // The container's own is called by its id.
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
    // In text too, and appended.
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
