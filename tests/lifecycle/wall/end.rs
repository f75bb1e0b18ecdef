//! How the processes of a VM end: by signals, and when one of them is killed.

use std::path::Path;

use nacre_tests::Case;
use nacre_tests::vm::{self, Role};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{IDLE, start, with_volumes};

nacre_tests::tests![
    the_stand_in_is_killed: Vm,
    the_sandbox_process_is_killed: Vm,
    stopped_stand_ins_are_removed: Vm,
    signals_get_through: Vm,
    a_foreground_run_is_killed: Vm,
];

fn the_stand_in_is_killed(case: &Case) {
    let pid = case.detach(&with_volumes(case, IDLE));
    case.wait_for_output("ready");
    kill(pid, Signal::SIGKILL).unwrap();
    case.wait_for_status("stopped");
    case.wait_for("end", || vm::with_role(case.id(), Role::Sandbox).is_empty());
    case.command(&["delete", case.id()]).ok();

    let mut running = case.start(&with_volumes(case, IDLE));
    running.wait_for_line("ready");
    let pid = case.inspect()["pid"].as_i64().unwrap();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    running.finish().expect(137);
}

fn the_sandbox_process_is_killed(case: &Case) {
    let pid = case.detach(&with_volumes(case, IDLE));
    case.wait_for_output("ready");
    let sandbox = vm::with_role(case.id(), Role::Sandbox);
    kill(sandbox[0], Signal::SIGKILL).unwrap();
    case.wait_for("end", || {
        !Path::new(&format!("/proc/{pid}/ns/pid")).exists()
    });
    // When the caller learns of the end, the container is stopped.
    assert_eq!(case.status(), "stopped");
    case.command(&["delete", case.id()]).ok();
}

fn stopped_stand_ins_are_removed(case: &Case) {
    for end in ["TERM", "KILL"] {
        let stand_ins = start(case, &with_volumes(case, "echo ready; sleep 1000"));
        for pid in stand_ins {
            kill(pid, Signal::SIGSTOP).unwrap();
        }
        case.command(&["kill", case.id(), end]).ok();
        if end == "KILL" {
            case.wait_for_status("stopped");
        }
        case.command(&["delete", "--force", case.id()]).ok();
        let are_gone = || vm::with_role(case.id(), Role::StandIn).is_empty();
        case.wait_for("end of what stands for them", are_gone);
        let cgroups = nacre_tests::leftovers::cgroups_named(case.id());
        assert!(cgroups.is_empty(), "{cgroups:?}");
    }
}

fn signals_get_through(case: &Case) {
    let script = "trap 'echo one' USR1; trap 'echo two' HUP; trap 'echo end; exit 9' TERM
                  echo ready; while :; do sleep 0.05; done";
    let pid = case.detach(&case.busybox().shell(script));
    case.wait_for_output("ready");
    for (signal, word) in [
        (Signal::SIGUSR1, "one"),
        (Signal::SIGHUP, "two"),
        (Signal::SIGTERM, "end"),
    ] {
        kill(pid, signal).unwrap();
        case.wait_for_output(word);
    }
    case.wait_for_status("stopped");
    // It isn't a child that this test could wait for.
    assert!(matches!(
        waitpid(pid, None),
        Err(nix::Error::ECHILD) | Ok(WaitStatus::Exited(_, 9))
    ));
    case.command(&["delete", case.id()]).ok();
}

fn a_foreground_run_is_killed(case: &Case) {
    let mut running = case.start(&with_volumes(case, IDLE));
    running.wait_for_line("ready");
    let outside = vm::with_role(case.id(), Role::Outside);
    assert_eq!(outside.len(), 2, "the command, and who cleans up after it");
    running.signal(Signal::SIGKILL);
    running.finish();
    case.wait_for("end", || vm::processes(case.id()).is_empty());
    assert_eq!(nacre_tests::leftovers::files(&case.state()), [""; 0]);
    assert!(nacre_tests::leftovers::cgroups_named(case.id()).is_empty());
}
