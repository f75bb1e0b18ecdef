//! The time in a container.

use std::io::Write;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nacre_tests::{Case, nacre::Running};

nacre_tests::tests![a_containers_clock_is_the_hosts];

/// Prints the time whenever it is asked.
const CLOCK: &str = "echo ready; while read -r _; do echo $EPOCHREALTIME; done";

/// By how much a container's clock may differ from the host's, in microseconds.
const OFF: i64 = 10_000;

/// How often the clock is read: the quickest answer counts.
const QUESTIONS: u32 = 20;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_micros().try_into().unwrap()
}

/// Returns by how much the container's clock is behind the host's, and the uncertainty of that.
fn behind(running: &mut Running) -> (i64, i64) {
    let mut ask = || {
        let before = now();
        running.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let shown = running.next_line();
        let after = now();
        let shown: i64 = shown.replace('.', "").parse().unwrap();
        let doubt = (after - before) / 2;
        (before + doubt - shown, doubt)
    };
    let answers = (0..QUESTIONS).map(|_| ask());
    answers.min_by_key(|(_, doubt)| *doubt).unwrap()
}

#[track_caller]
fn is_right(running: &mut Running) {
    let (behind, doubt) = behind(running);
    assert!(
        behind.abs() <= OFF + doubt,
        "{behind} µs behind, in doubt {doubt} µs"
    );
}

fn a_containers_clock_is_the_hosts(case: &Case) {
    let mut running = case.start(&case.busybox().shell(CLOCK));
    running.wait_for_line("ready");
    is_right(&mut running);
    case.command(&["pause", case.id()]).ok();
    thread::sleep(Duration::from_secs(2));
    case.command(&["resume", case.id()]).ok();
    is_right(&mut running);
    running.finish().ok();
}
