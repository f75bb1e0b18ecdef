//! A container that outlives `nacre run`, and the commands that deal with it.

use nacre_tests::{Case, Isolation, nacre};

nacre_tests::tests![
    from_run_to_delete,
    delete_ends_what_runs_if_told_to,
    commands_for_a_container_that_isnt_there,
    a_sandbox_that_was_killed_can_be_deleted,
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
    // There is none any more, which is what was wanted.
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

fn a_sandbox_that_was_killed_can_be_deleted(case: &Case) {
    case.detach(&case.busybox().args(["sleep", "1000"]));
    assert_eq!(case.command(&["kill", case.id(), "KILL"]).ok(), "");
    case.wait_for_status("stopped");
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
}
