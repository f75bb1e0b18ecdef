//! Signals sent to `nacre run`.

use nacre_tests::{Case, leftovers};
use nix::sys::signal::Signal;

use super::status::own_namespaces_but;

nacre_tests::tests![
    every_forwarded_signal_reaches_the_workload,
    a_signal_without_a_handler_ends_the_workload,
    a_signal_before_the_workload_runs_isnt_fatal_to_the_cleanup,
];

fn every_forwarded_signal_reaches_the_workload(case: &Case) {
    let bundle = case.busybox().shell(
        "for s in HUP INT QUIT USR1 USR2 WINCH ALRM CONT TSTP TTIN TTOU URG IO PIPE PWR STKFLT ABRT SEGV 40; do trap \"echo got $s\" $s; done
         trap 'echo got TERM; exit 7' TERM
         echo ready
         while :; do sleep 0.05; done",
    );
    let mut running = case.start(&bundle);
    running.wait_for_line("ready");
    // A realtime signal, which has no name.
    // SAFETY: the call touches no memory.
    unsafe { libc::kill(running.pid().as_raw(), 40) };
    running.wait_for_line("got 40");
    for (signal, name) in [
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGWINCH, "WINCH"),
        (Signal::SIGALRM, "ALRM"),
        (Signal::SIGCONT, "CONT"),
        (Signal::SIGTSTP, "TSTP"),
        (Signal::SIGTTIN, "TTIN"),
        (Signal::SIGTTOU, "TTOU"),
        (Signal::SIGURG, "URG"),
        (Signal::SIGIO, "IO"),
        (Signal::SIGPIPE, "PIPE"),
        (Signal::SIGABRT, "ABRT"),
        (Signal::SIGSEGV, "SEGV"),
        (Signal::SIGPWR, "PWR"),
        (Signal::SIGSTKFLT, "STKFLT"),
        (Signal::SIGTERM, "TERM"),
    ] {
        running.signal(signal);
        let before = running.wait_for_line(&format!("got {name}"));
        assert_eq!(before, "", "before {name}");
    }
    running.finish().expect(7);
}

fn a_signal_without_a_handler_ends_the_workload(case: &Case) {
    let bundle = case
        .busybox()
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .shell("echo ready; exec sleep 1000");
    let mut running = case.start(&bundle);
    running.wait_for_line("ready");
    running.signal(Signal::SIGTERM);
    running.finish().expect(128 + 15);
}

fn a_signal_before_the_workload_runs_isnt_fatal_to_the_cleanup(case: &Case) {
    let bundle = case
        .busybox()
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .args(["sleep", "1000"]);
    let running = case.start(&bundle);
    // It is being created: if it is in a VM, that boots.
    case.wait_for("state", || !leftovers::files(&case.state()).is_empty());
    running.signal(Signal::SIGTERM);
    let outcome = running.finish();
    // The signal was kept until the workload ran, or taken as a request to stop: it has ended, and
    // the harness sees that nothing is left.
    assert_ne!(outcome.status(), Some(0), "{outcome:?}");
}
