//! A system call that the filter of one of a VM's own processes refuses: the process ends, and with it the
//! VM; its caller is told, and `nacre state` says of which call.

use std::fs;

use nacre_tests::Case;
use nacre_tests::captive::{Call, Captive, Outcome};
use nacre_tests::vm::{self, Role};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

nacre_tests::tests![
    a_violation_ends_the_vm_and_is_the_failure: Vm,
    each_thread_of_the_sandbox_process_has_a_list: Vm,
    a_violation_in_the_sandbox_process_is_the_commands_error: Vm,
];

/// A call that no process of a VM may make.
const FORBIDDEN: libc::c_long = libc::SYS_ptrace;

/// Returns the VM's only process that has this role.
#[track_caller]
fn process(case: &Case, role: Role) -> Pid {
    match vm::with_role(case.id(), role)[..] {
        [process] => process,
        ref others => panic!("not one {role:?}: {others:?}"),
    }
}

/// Has a thread make a call, which ends its process.
#[track_caller]
fn violate(case: &Case, thread: Pid, call: libc::c_long) {
    let captive = Captive::take(case, thread);
    let outcome = captive.call_itself(&Call {
        number: call,
        arguments: Vec::new(),
    });
    assert_eq!(outcome, Outcome::Killed(Signal::SIGSYS), "{thread}: {call}");
}

/// Returns whether the kernel's log says for which call this process was ended. It doesn't if there
/// is an audit daemon, or if much else is logged.
fn is_logged(process: Pid, call: libc::c_long) -> bool {
    const READ_ALL: libc::c_int = 3;
    let mut log = vec![0; 256 << 10];
    let (at, size) = (log.as_mut_ptr().cast(), log.len() as libc::c_int);
    // SAFETY: the buffer has the length given.
    let read = unsafe { libc::klogctl(READ_ALL, at, size) };
    log.truncate(read.max(0) as usize);
    let words = [format!(" pid={process} "), format!(" syscall={call} ")];
    let log = String::from_utf8_lossy(&log);
    log.lines()
        .any(|line| words.iter().all(|word| line.contains(word)))
}

/// Returns what is said of a process that a filter has ended.
fn filtered(name: &str, process: Pid, call: libc::c_long) -> String {
    let mut words = format!("{name} was killed by its system call filter (SIGSYS)");
    if is_logged(process, call) {
        words += &format!(", for system call {call}");
    }
    words
}

/// Returns the same of a sandbox process of a container in the background: nobody waits for that, so only
/// the log tells that it wasn't killed by somebody.
fn of_the_sandbox_process(process: Pid, call: libc::c_long) -> String {
    if is_logged(process, call) {
        filtered("the sandbox process", process, call)
    } else {
        "the sandbox process was killed by SIGKILL".to_owned()
    }
}

/// Waits for the VM's end, of which nobody is left, and returns what its state says of it. Nothing is
/// left of the container when it has been deleted.
#[track_caller]
fn failure(case: &Case) -> String {
    case.wait_for_status("stopped");
    case.wait_for("end of its processes", || {
        vm::processes(case.id()).is_empty()
    });
    let state = case.inspect();
    let failure = state["failure"].as_str();
    let failure = failure.unwrap_or_else(|| panic!("{state}")).to_owned();
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
    case.expect_nothing("after a violation");
    failure
}

fn a_violation_ends_the_vm_and_is_the_failure(case: &Case) {
    for (role, name) in [
        (Role::Sandbox, "the sandbox process"),
        (Role::Monitor, "the monitor"),
        (
            Role::FileServer,
            "the process that serves files to the guest",
        ),
    ] {
        case.idle();
        let process = process(case, role);
        violate(case, process, FORBIDDEN);
        let expected = match role {
            Role::Sandbox => of_the_sandbox_process(process, FORBIDDEN),
            _ => filtered(name, process, FORBIDDEN),
        };
        let failure = failure(case);
        assert!(failure.contains(&expected), "{failure}");
    }
}

/// A thread that carries what the guest says may not even make calls that the main thread needs.
fn each_thread_of_the_sandbox_process_has_a_list(case: &Case) {
    case.idle();
    let sandbox = process(case, Role::Sandbox);
    let threads = fs::read_dir(format!("/proc/{sandbox}/task")).unwrap();
    let threads = threads.map(|thread| thread.unwrap().file_name());
    let mut others = threads
        .map(|name| Pid::from_raw(name.to_str().unwrap().parse().unwrap()))
        .filter(|thread| *thread != sandbox);
    let carrier = others.next().expect("a thread that carries");
    violate(case, carrier, libc::SYS_openat);
    let expected = of_the_sandbox_process(sandbox, libc::SYS_openat);
    assert_eq!(failure(case), expected);
}

fn a_violation_in_the_sandbox_process_is_the_commands_error(case: &Case) {
    let mut running = case.start(&case.busybox().shell("echo ready; exec sleep 1000"));
    running.wait_for_line("ready");
    let sandbox = process(case, Role::Sandbox);
    violate(case, sandbox, FORBIDDEN);
    let outcome = running.finish();
    let message = outcome.stderr.trim_end().to_owned();
    assert_eq!(outcome.status(), Some(128 + libc::SIGSYS), "{message}");
    let expected = filtered("the sandbox process", sandbox, FORBIDDEN);
    assert_eq!(message, format!("nacre: {expected}"));
    case.expect_nothing("after a violation in the foreground");
}
