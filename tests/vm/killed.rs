//! nacre's processes are killed, at any moment.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nacre_tests::{Case, Running, leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

nacre_tests::tests![
    nacre_run_is_killed,
    a_run_that_keeps_is_killed,
    what_nacre_run_makes_is_killed,
    both_are_killed,
];

/// Returns moments from the start of `nacre run`: before there is a sandbox process, while the VM
/// boots, and when the workload runs.
fn moments() -> impl Iterator<Item = Duration> {
    [0, 5, 20, 50, 100, 300, 1000, 3000, 6000]
        .into_iter()
        .map(Duration::from_millis)
}

fn start(case: &Case) -> Running {
    case.start(&case.busybox().shell("while :; do sleep 0.1; done"))
}

/// Returns the processes of this test but `nacre run` itself.
fn others(case: &Case, running: &Running) -> Vec<Pid> {
    leftovers::processes(case.id())
        .into_iter()
        .map(|(pid, _)| pid)
        .filter(|pid| *pid != running.pid())
        .collect()
}

/// Returns what is left once the processes are gone, for which they have a while.
fn remains(case: &Case, running: &Running) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(20);
    while !others(case, running).is_empty() {
        assert!(Instant::now() < end, "the sandbox process lives on");
        sleep(Duration::from_millis(20));
    }
    leftovers::files(&case.state())
}

fn nacre_run_is_killed(case: &Case) {
    for moment in moments() {
        let running = start(case);
        sleep(moment);
        running.signal(Signal::SIGKILL);
        let left = remains(case, &running);
        // Between making the folder and making the sandbox process there is nobody else to remove
        // it: the folder is empty then, and the next run takes it over.
        let empty_folder = case.state().join(case.id());
        let empty = fs::read_dir(&empty_folder).is_ok_and(|mut d| d.next().is_none());
        assert!(
            left.is_empty() || left.len() == 1 && empty,
            "after {moment:?}: {left:?}"
        );
        running.finish();
    }
    case.run(&case.busybox().args(["true"])).expect(0);
}

fn a_run_that_keeps_is_killed(case: &Case) {
    let bundle = case.busybox().shell("echo ready; sleep 1000");
    let mut command = case.nacre();
    command
        .args(["run", "--keep", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let mut running = case.spawn(command);
    running.wait_for_line("ready");
    running.signal(Signal::SIGKILL);
    case.wait_for_status("stopped");
    running.finish();
    case.command(&["delete", case.id()]).ok();
}

fn what_nacre_run_makes_is_killed(case: &Case) {
    for moment in moments() {
        let running = start(case);
        sleep(moment);
        let mut killed = 0_usize;
        let end = Instant::now() + Duration::from_secs(60);
        while killed == 0 && Instant::now() < end {
            for pid in leftovers::processes_of_nacre(case.id()) {
                if pid == running.pid() {
                    continue;
                }
                // It may have ended with another one.
                killed += usize::from(kill(pid, Signal::SIGKILL).is_ok());
            }
        }
        let outcome = running.finish();
        outcome.expect(137);
        assert_ne!(killed, 0, "after {moment:?}");
        let left = leftovers::files(&case.state());
        assert!(left.is_empty(), "after {moment:?}: {left:?}");
    }
}

fn both_are_killed(case: &Case) {
    for moment in moments() {
        let running = start(case);
        sleep(moment);
        running.signal(Signal::SIGSTOP);
        for pid in others(case, &running) {
            // It may have ended with another one.
            let _ = kill(pid, Signal::SIGKILL);
        }
        running.signal(Signal::SIGKILL);
        // Nobody is left to remove the state, but it isn't taken for a container either.
        remains(case, &running);
        running.finish();
        let mut list = case.nacre();
        list.args(["list", "-q"]);
        assert_eq!(case.spawn(list).finish().ok(), "", "after {moment:?}");
    }
    case.run(&case.busybox().args(["true"])).expect(0);
}
