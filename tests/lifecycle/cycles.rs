//! Containers one after another, and commands one after another for one of them: nothing adds up.

use std::fs;
use std::panic::resume_unwind;
use std::thread;

use nacre_tests::{Case, Isolation, leftovers};
use nix::unistd::Pid;

nacre_tests::tests![create_start_delete, a_container_that_serves_many];

/// How often: `NACRE_TESTS_CYCLES`, or in an emulated VM, of which each takes about a second,
/// what is done in a minute; in the testbed what is done in about as long.
fn cycles(case: &Case) -> u32 {
    let asked = std::env::var("NACRE_TESTS_CYCLES").ok();
    asked.map_or_else(
        || match case.isolation() {
            Isolation::Process => 200,
            Isolation::Vm if case.is_emulated() => 60,
            Isolation::Vm => 8,
        },
        |asked| asked.parse().expect("NACRE_TESTS_CYCLES is a number"),
    )
}

/// How many containers there are at a time.
const AT_A_TIME: u32 = 2;

fn create_start_delete(case: &Case) {
    let bundle = case.busybox().args(["true"]);
    let directory = bundle.write().to_str().unwrap();
    let each = cycles(case) / AT_A_TIME;
    thread::scope(|scope| {
        let side_by_side = (0..AT_A_TIME).map(|name| {
            scope.spawn(move || {
                let id = format!("{}-{name}", case.id());
                for _ in 0..each {
                    let mut create = case.nacre();
                    create.args(["create", "--bundle", directory, &id]);
                    assert_eq!(case.leave(create), 0, "{}", case.output());
                    case.command(&["start", &id]).ok();
                    case.command(&["delete", "--force", &id]).ok();
                }
            })
        });
        for one in side_by_side.collect::<Vec<_>>() {
            one.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    // Processes, mounts, cgroups and files are looked for after every test.
    assert_eq!(case.command(&["list", "--quiet"]).ok(), "");
}

/// How many descriptors a process has open.
fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn a_container_that_serves_many(case: &Case) {
    case.idle();
    let commands = || {
        case.command(&["exec", case.id(), "true"]).ok();
        case.command(&["ps", case.id()]).ok();
        case.command(&["pause", case.id()]).ok();
        case.command(&["resume", case.id()]).ok();
    };
    let used = || {
        let all = leftovers::processes(case.id()).into_iter();
        all.map(|(pid, _)| descriptors(pid)).collect::<Vec<_>>()
    };
    commands();
    let before = used();
    for _ in 0..cycles(case) / 4 {
        commands();
    }
    // What it was given for the last one is closed a moment after the command's end.
    case.wait_for(&format!("{before:?} descriptors"), || used() == before);
    case.remove_container();
}
