//! A container that outlives `nacre run`, and the commands that deal with it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nacre_tests::console::in_shell;
use nacre_tests::{Case, Isolation, nacre};
use nix::sys::prctl::set_child_subreaper;

nacre_tests::tests![
    from_run_to_delete,
    delete_ends_what_runs_if_told_to,
    commands_for_a_container_that_isnt_there,
    a_killed_container_can_be_deleted,
    its_status_as_its_reaper_sees_it,
];

fn from_run_to_delete(case: &Case) {
    let bundle = case
        .busybox()
        .annotation("some.annotation", "its value")
        .shell("trap 'echo ended; exit 9' TERM; echo runs; while :; do sleep 0.05; done");
    let pid = case.detach(&bundle);
    // Its trap is set: a first process that handles no SIGTERM ignores it.
    case.wait_for_output("runs");

    let running = case.inspect();
    assert_eq!(running["id"], case.id());
    assert_eq!(running["status"], "running");
    assert_eq!(running["bundle"], case.directory().to_str().unwrap());
    assert_eq!(running["annotations"]["some.annotation"], "its value");
    assert_eq!(running["pid"], pid.as_raw());
    match case.isolation() {
        Isolation::Vm => {
            assert_eq!(running["isolation"], "vm");
            let hypervisor = if case.is_emulated() { "qemu" } else { "kvm" };
            assert_eq!(running["hypervisor"], hypervisor);
            assert!(running["guestKernel"].as_str().unwrap().starts_with("6."));
        }
        Isolation::Process if nacre::is_reference() => {}
        Isolation::Process => assert_eq!(running["isolation"], "process"),
    }

    assert!(case.command(&["list"]).ok().contains(case.id()));
    assert_eq!(
        case.command(&["list", "-q"]).ok(),
        format!("{}\n", case.id())
    );
    let message = case.command(&["delete", case.id()]).refused(1);
    assert!(message.contains("running"), "{message}");

    assert_eq!(case.command(&["kill", case.id(), "TERM"]).ok(), "");
    case.wait_for_status("stopped");
    assert_eq!(case.output(), "runs\nended\n");
    let message = case.command(&["kill", case.id(), "TERM"]).refused(1);
    assert!(message.contains(case.id()), "{message}");

    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
    assert_eq!(case.command(&["list", "-q"]).ok(), "");
}

fn delete_ends_what_runs_if_told_to(case: &Case) {
    case.detach(&case.busybox().args(["sleep", "1000"]));
    assert_eq!(case.command(&["delete", "--force", case.id()]).ok(), "");
    assert_eq!(case.command(&["list", "-q"]).ok(), "");
    // There is no container any more, which is what was wanted.
    assert_eq!(case.command(&["delete", "--force", case.id()]).ok(), "");
}

fn commands_for_a_container_that_isnt_there(case: &Case) {
    for arguments in [
        ["state", case.id()],
        ["kill", case.id()],
        ["delete", case.id()],
    ] {
        let message = case.command(&arguments).refused(1);
        assert!(message.contains(case.id()), "{message}");
    }
}

fn a_killed_container_can_be_deleted(case: &Case) {
    case.detach(&case.busybox().args(["sleep", "1000"]));
    assert_eq!(case.command(&["kill", case.id(), "KILL"]).ok(), "");
    case.wait_for_status("stopped");
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
}

/// The container's pid becomes a child of the process that reaps for the caller, such as
/// containerd's shim or Podman's conmon.
fn its_status_as_its_reaper_sees_it(case: &Case) {
    case.needs("perl", "perl-base");
    let file = case.directory().join("pid");
    let mut start = case.nacre();
    start.args(["start", case.id()]);
    let script = r#"
        my ($create, $file, $start) = @ARGV;
        system($create) == 0 or die "create: $?";
        open(my $open, "<", $file) or die "$file: $!";
        my $pid = <$open>;
        system($start) == 0 or die "start: $?";
        waitpid($pid, 0) == $pid or die "waitpid: $!";
        print "exit status ", $? >> 8, ", signal ", $? & 127;"#;
    for status in [0, 43] {
        let bundle = case.busybox().shell(&format!("exit {status}"));
        let mut create = case.nacre();
        create.args(["create", "--pid-file"]).arg(&file);
        create.arg("--bundle").arg(bundle.write()).arg(case.id());
        let mut reaper = case.mark(Command::new("perl"));
        reaper.args(["-e", script]).arg(in_shell(&create));
        reaper.arg(&file).arg(in_shell(&start));
        // SAFETY: prctl(2) may be called between fork and exec.
        unsafe { reaper.pre_exec(|| Ok(set_child_subreaper(true)?)) };
        let seen = case.spawn(reaper).finish().ok();
        assert_eq!(seen, format!("exit status {status}, signal 0"));
        assert_eq!(case.status(), "stopped");
        assert_eq!(case.command(&["delete", case.id()]).ok(), "");
    }
}
