//! `nacre kill`.

use std::fs;
use std::time::Duration;

use nacre_tests::{Case, Isolation, leftovers};

use super::status::own_namespaces_but;

nacre_tests::tests![
    signals_have_names_and_numbers,
    term_is_the_default,
    what_is_no_signal,
    a_created_container,
    an_ended_container,
    all_of_a_containers_processes,
    all_that_an_ended_container_left: Process,
    all_of_a_containers_processes_are_killed,
    a_stopped_process_is_killed,
    one_whose_output_nobody_takes,
];

fn signals_have_names_and_numbers(case: &Case) {
    let bundle = case.busybox().shell(
        "trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo hup' HUP; trap 'echo rt' 40
         echo ready; while :; do sleep 0.02; done",
    );
    case.detach(&bundle);
    case.wait_for_output("ready");
    let mut expected = "ready\n".to_owned();
    for (signal, name) in [
        ("USR1", "usr1"),
        ("SIGUSR1", "usr1"),
        ("usr1", "usr1"),
        ("10", "usr1"),
        ("sigusr2", "usr2"),
        ("1", "hup"),
        ("40", "rt"),
    ] {
        assert_eq!(case.command(&["kill", case.id(), signal]).ok(), "");
        expected += &format!("{name}\n");
        case.wait_for(&format!("{name} for {signal}"), || {
            case.output() == expected
        });
    }
    case.remove_container();
}

fn term_is_the_default(case: &Case) {
    let bundle = case
        .busybox()
        .shell("trap 'echo term; exit' TERM; echo ready; while :; do sleep 0.02; done");
    case.detach(&bundle);
    case.wait_for_output("ready");
    assert_eq!(case.command(&["kill", case.id()]).ok(), "");
    case.wait_for_status("stopped");
    assert_eq!(case.output(), "ready\nterm\n");
    case.remove_container();
}

fn what_is_no_signal(case: &Case) {
    case.idle();
    for signal in ["NONE", "SIGSIGTERM", "", "1000", "TERM2"] {
        case.command(&["kill", case.id(), signal]).refused(1);
    }
    assert_eq!(case.status(), "running");
    case.remove_container();
}

fn a_created_container(case: &Case) {
    case.create(&case.busybox().shell("echo runs"));
    assert_eq!(case.command(&["kill", case.id(), "KILL"]).ok(), "");
    case.wait_for_status("stopped");
    case.command(&["start", case.id()]).refused(1);
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
    assert_eq!(case.output(), "");
}

fn an_ended_container(case: &Case) {
    case.detach(&case.busybox().args(["true"]));
    case.wait_for_status("stopped");
    case.command(&["kill", case.id(), "KILL"]).refused(1);
    // It has no processes left, which isn't an error.
    case.command(&["kill", "--all", case.id(), "KILL"]).ok();
    case.command(&["delete", case.id()]).ok();
}

/// Starts processes of a container that has no pid namespace, so that on the host the others don't
/// end with the first. `at_term` is what the first one does at SIGTERM before it ends.
fn with_company(case: &Case, at_term: &str) {
    let bundle = case
        .busybox()
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .shell(&format!(
            "trap '{at_term}echo first; exit' TERM
             for i in 1 2 3; do
                 sh -c 'trap \"echo other; exit\" TERM; echo ready; while :; do sleep 0.02; done' &
             done
             while :; do sleep 0.02; done"
        ));
    case.detach(&bundle);
    case.wait_for("three others", || {
        case.output().matches("ready").count() == 3
    });
}

fn all_of_a_containers_processes(case: &Case) {
    // A guest's processes end with the first, which therefore waits for the others.
    with_company(case, "wait; ");
    assert_eq!(case.command(&["kill", "--all", case.id(), "TERM"]).ok(), "");
    case.wait_for_status("stopped");
    case.wait_for("the end of all", || {
        case.output().matches("other").count() == 3 && case.output().contains("first")
    });
    case.command(&["delete", case.id()]).ok();
}

/// In a VM nothing is left: the guest ends with the container.
fn all_that_an_ended_container_left(case: &Case) {
    for words in [&["kill"][..], &["kill", "--all"]] {
        with_company(case, "");
        assert_eq!(case.command(&["kill", case.id(), "TERM"]).ok(), "");
        case.wait_for_status("stopped");
        assert!(!leftovers::processes(case.id()).is_empty());
        let words = [words, &[case.id(), "KILL"]].concat();
        assert_eq!(case.command(&words).ok(), "");
        case.wait_for("the end of all", || {
            leftovers::processes(case.id()).is_empty()
        });
        case.command(&["delete", case.id()]).ok();
        fs::remove_file(case.directory().join("output")).unwrap();
    }
}

/// Without a pid namespace they don't end with the first.
fn all_of_a_containers_processes_are_killed(case: &Case) {
    with_company(case, "");
    // This works once none is left, too.
    for _ in 0..2 {
        assert_eq!(case.command(&["kill", case.id(), "KILL"]).ok(), "");
        case.wait_for_status("stopped");
    }
    if case.isolation() == Isolation::Process {
        case.wait_for("the end of all", || {
            leftovers::processes(case.id()).is_empty()
        });
    }
    case.command(&["delete", case.id()]).ok();
}

fn a_stopped_process_is_killed(case: &Case) {
    let bundle = case
        .busybox()
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .shell("echo ready; kill -STOP $$; echo goes on");
    case.detach(&bundle);
    case.wait_for_output("ready");
    assert_eq!(case.command(&["kill", case.id(), "KILL"]).ok(), "");
    case.wait_for_status("stopped");
    assert_eq!(case.output(), "ready\n");
    case.remove_container();
}

fn one_whose_output_nobody_takes(case: &Case) {
    let mut running = case.start(&case.busybox().shell("head -c 150000 /dev/zero"));
    case.wait_for("the container", || {
        case.command(&["state", case.id()]).status() == Some(0)
    });
    case.wait_for_status("running");
    if case.isolation() == Isolation::Vm {
        // A VM buffers that much, and its workload ends; on the host the workload waits for the
        // pipe.
        case.wait_for("the workload's end", || {
            case.command(&["ps", case.id()]).status() != Some(0)
        });
        assert_eq!(case.status(), "running");
    }
    case.command(&["kill", case.id(), "KILL"]).ok();
    // Nobody takes its output before it has ended.
    assert!(running.ends_within(Duration::from_secs(60)));
    running.finish();
}
