//! Runs the engine in another process, and stops it and all its children at each system call.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// A system call that a traced process is about to make.
pub(crate) struct Call {
    pub(crate) process: Pid,
    pub(crate) number: i64,
    /// The first two.
    pub(crate) arguments: [u64; 2],
}

impl Call {
    /// Returns the string that an argument points to.
    pub(crate) fn string(&self, argument: usize) -> String {
        let (pid, address) = (self.process, self.arguments[argument]);
        let mut bytes = Vec::new();
        while let Ok(word) = ptrace::read(pid, (address + bytes.len() as u64) as *mut c_void) {
            for byte in word.to_ne_bytes() {
                match byte {
                    0 => return String::from_utf8(bytes).unwrap(),
                    byte => bytes.push(byte),
                }
            }
        }
        panic!("{pid} has no string there");
    }
}

/// Runs `body` in a child, and calls `at_call` before each system call of that and of all its
/// descendants, until the child ends. It may not panic.
pub(crate) fn run(body: impl FnOnce(), at_call: impl FnMut(&Call)) {
    // SAFETY: the tests have one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let status = catch_unwind(AssertUnwindSafe(|| {
                ptrace::traceme().unwrap();
                raise(Signal::SIGSTOP).unwrap();
                body();
            }));
            // SAFETY: the child ends here.
            unsafe { libc::_exit(i32::from(status.is_err())) }
        }
        ForkResult::Parent { child } => watch(child, at_call),
    }
}

fn watch(first: Pid, mut at_call: impl FnMut(&Call)) {
    use ptrace::Options as O;
    waitpid(first, None).unwrap();
    let options = O::PTRACE_O_TRACESYSGOOD
        | O::PTRACE_O_TRACEFORK
        | O::PTRACE_O_TRACEVFORK
        | O::PTRACE_O_TRACECLONE
        | O::PTRACE_O_TRACEEXEC
        | O::PTRACE_O_EXITKILL;
    ptrace::setoptions(first, options).unwrap();
    ptrace::syscall(first, None).unwrap();
    loop {
        let (pid, signal) = match waitpid(None, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Exited(pid, status) if pid == first => {
                assert_eq!(status, 0, "the engine failed, traced");
                return;
            }
            WaitStatus::PtraceSyscall(pid) => {
                if let Some(call) = entered(pid) {
                    at_call(&call);
                }
                (pid, None)
            }
            WaitStatus::Stopped(pid, Signal::SIGSTOP) => (pid, None),
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            WaitStatus::PtraceEvent(pid, _, _) => (pid, None),
            _ => continue,
        };
        // The process may have been killed meanwhile.
        let _ = ptrace::syscall(pid, signal);
    }
}

/// Returns the system call at whose entry a process has stopped.
fn entered(process: Pid) -> Option<Call> {
    let registers = ptrace::getregs(process).ok()?;
    // At the exit the register has another value.
    let is_entry = registers.rax as i64 == -i64::from(libc::ENOSYS);
    is_entry.then_some(Call {
        process,
        number: registers.orig_rax as i64,
        arguments: [registers.rdi, registers.rsi],
    })
}
