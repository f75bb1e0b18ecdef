//! System calls in the place of another process: what somebody could try who has taken it over.
//!
//! A thread of the process is stopped (ptrace(2)) and made to fork, while its filter is suspended. The
//! child has the thread's user, capabilities, filter, namespaces, root and descriptors, and makes the
//! calls; the process itself goes on as if nothing had been.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Case;

/// A system call to be made.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Its first arguments; the others are 0.
    pub arguments: Vec<Argument>,
}

/// An argument of a system call.
#[derive(Debug, Clone)]
pub enum Argument {
    /// A number.
    Number(i64),
    /// The address of bytes.
    Bytes(Vec<u8>),
    /// What the call before this one has returned.
    Returned,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this.
    Returned(i64),
    /// It failed with this error.
    Failed(Errno),
    /// It ended the process.
    Killed(Signal),
}

/// What a stopped process's registers are.
type Registers = libc::user_regs_struct;

/// The instruction that makes a system call, `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// How often a thread is stopped until that is found in a system call, and at what interval: a program that
/// has just been started may be on a slow disk.
const ATTEMPTS: usize = 1000;
const INTERVAL: Duration = Duration::from_millis(10);

/// `PTRACE_O_SUSPEND_SECCOMP`: the filter doesn't apply. From linux/ptrace.h.
const SUSPEND_FILTER: i32 = 1 << 21;

/// What a child that has been made is watched for.
const OF_A_CHILD: i32 = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEFORK;

/// A thread that has been stopped. Dropping this lets it go on.
#[derive(Debug)]
pub struct Captive {
    thread: Pid,
    /// Those with which it goes on.
    registers: Registers,
}

impl Captive {
    /// Stops a thread, or has the test say why that can't be. All calls have to come from the thread
    /// that makes this one.
    ///
    /// # Panics
    ///
    /// If the thread makes no system calls, or isn't there.
    #[track_caller]
    pub fn take(case: &Case, thread: Pid) -> Self {
        match Self::stop(thread) {
            Ok(captive) => captive,
            Err(error @ (Errno::EPERM | Errno::EINVAL | Errno::EIO)) => {
                case.ignore(&format!("no filter can be suspended here: {error}"))
            }
            Err(error) => panic!("{thread}: {error}"),
        }
    }

    fn stop(thread: Pid) -> Result<Self, Errno> {
        ptrace::seize(thread, options(SUSPEND_FILTER))?;
        for _ in 0..ATTEMPTS {
            ptrace::interrupt(thread)?;
            await_interruption(thread)?;
            let registers = ptrace::getregs(thread)?;
            let mut before = [0; SYSCALL.len()];
            let place = registers.rip - SYSCALL.len() as u64;
            memory(thread).read_exact_at(&mut before, place).unwrap();
            if before == SYSCALL {
                return Ok(Self { thread, registers });
            }
            ptrace::cont(thread, None)?;
            sleep(INTERVAL);
        }
        panic!("{thread} makes no system calls");
    }

    /// Makes calls in a child of the process, until one of them ends it; returns what came of the
    /// last one, or of the first one that failed.
    #[track_caller]
    pub fn attempt(&self, calls: &[Call]) -> Outcome {
        self.attempt_in(self.fork(), calls)
    }

    /// Does the same without the thread's filter, to see what else refuses a call.
    #[track_caller]
    pub fn attempt_unfiltered(&self, calls: &[Call]) -> Outcome {
        let (inner, child) = self.fork();
        let its = options(OF_A_CHILD | SUSPEND_FILTER);
        ptrace::setoptions(child, its).unwrap();
        self.attempt_in((inner, child), calls)
    }

    /// Makes calls in a child, of which the pids in its own pid namespace and in this one are given.
    #[track_caller]
    fn attempt_in(&self, (inner, child): (i64, Pid), calls: &[Call]) -> Outcome {
        let mut outcome = Outcome::Returned(0);
        for call in calls {
            let Outcome::Returned(before) = outcome else {
                break;
            };
            let made;
            (outcome, made) = self.call(child, call, before);
            if let Some(made) = made {
                end(made);
            }
        }
        if !matches!(outcome, Outcome::Killed(_)) {
            end(child);
        }
        // Whoever has made it reaps it, too.
        let reap = Call {
            number: libc::SYS_wait4,
            arguments: [inner, 0, libc::__WALL.into(), 0]
                .map(Argument::Number)
                .into(),
        };
        let reaped = self.without_filter(&reap);
        assert_eq!(reaped.0, Outcome::Returned(inner), "reaping {child}");
        outcome
    }

    /// Makes a call, of numbers alone, in the thread itself.
    #[track_caller]
    pub fn call_itself(&self, call: &Call) -> Outcome {
        ptrace::setoptions(self.thread, options(0)).unwrap();
        self.call(self.thread, call, 0).0
    }

    /// Makes a child; returns its pids in its own pid namespace and in this one.
    #[track_caller]
    fn fork(&self) -> (i64, Pid) {
        // Without a signal at its end, which the process would be told of.
        let clone = Call {
            number: libc::SYS_clone,
            arguments: Vec::new(),
        };
        let (Outcome::Returned(inner), Some(child)) = self.without_filter(&clone) else {
            panic!("{} can't fork", self.thread);
        };
        let stopped = waitpid(child, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(
            matches!(stopped, WaitStatus::PtraceEvent(..)),
            "{stopped:?}"
        );
        ptrace::setoptions(child, options(OF_A_CHILD)).unwrap();
        (inner, child)
    }

    /// Makes a call in the thread itself, whatever its filter is.
    #[track_caller]
    fn without_filter(&self, call: &Call) -> (Outcome, Option<Pid>) {
        let suspended = options(SUSPEND_FILTER | libc::PTRACE_O_TRACECLONE);
        ptrace::setoptions(self.thread, suspended).unwrap();
        self.call(self.thread, call, 0)
    }

    /// Makes a call in a process that has the same memory; `before` is what the one before it has
    /// returned. Bytes are put where the stack is, to which the process doesn't return. Returns the
    /// child that the call has made, too.
    #[track_caller]
    fn call(&self, process: Pid, call: &Call, before: i64) -> (Outcome, Option<Pid>) {
        let mut place = self.registers.rsp;
        let mut arguments = [0; 6];
        for (value, argument) in arguments.iter_mut().zip(&call.arguments) {
            *value = match argument {
                Argument::Number(number) => *number as u64,
                Argument::Returned => before as u64,
                Argument::Bytes(bytes) => {
                    assert_ne!(process, self.thread, "its stack is needed");
                    memory(process).write_all_at(bytes, place).unwrap();
                    let here = place;
                    place += bytes.len().next_multiple_of(16) as u64;
                    here
                }
            };
        }
        let mut registers = self.registers;
        registers.rip -= SYSCALL.len() as u64;
        registers.rax = call.number as u64;
        // It isn't in a call that is to be made again.
        registers.orig_rax = u64::MAX;
        [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ] = arguments;
        ptrace::setregs(process, registers).unwrap();
        // Its beginning, then its end.
        let mut stops = 0;
        let (mut signal, mut child) = (None, None);
        loop {
            ptrace::syscall(process, signal.take()).unwrap();
            match waitpid(process, Some(WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::PtraceSyscall(_) => stops += 1,
                WaitStatus::PtraceEvent(
                    _,
                    _,
                    libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK,
                ) => {
                    let pid = ptrace::getevent(process).unwrap();
                    child = Some(Pid::from_raw(pid as i32));
                }
                WaitStatus::PtraceEvent(..) => {}
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::Signaled(_, by, _) => return (Outcome::Killed(by), child),
                other => panic!("{call:?}: {other:?}"),
            }
            // Who is killed for a call by a filter stops at its end once more.
            if stops == 2 && !is_doomed(process) {
                break;
            }
        }
        let outcome = match ptrace::getregs(process).unwrap().rax as i64 {
            error @ -4095..0 => Outcome::Failed(Errno::from_raw(-error as i32)),
            value => Outcome::Returned(value),
        };
        (outcome, child)
    }
}

impl Drop for Captive {
    /// Has the thread continue as if its call had only been interrupted, if it hasn't ended.
    fn drop(&mut self) {
        // It stands still, and stops again on its way out of the kernel, where a call that was
        // interrupted is made again.
        let continued = ptrace::interrupt(self.thread)
            .and_then(|()| ptrace::cont(self.thread, None))
            .and_then(|()| await_interruption(self.thread))
            .and_then(|()| ptrace::setregs(self.thread, self.registers))
            .and_then(|()| ptrace::detach(self.thread, None));
        if !std::thread::panicking() {
            assert!(
                matches!(continued, Ok(()) | Err(Errno::ESRCH)),
                "{continued:?}"
            );
        }
    }
}

/// Kills a process that has been made, and waits for its end.
#[track_caller]
fn end(process: Pid) {
    kill(process, Signal::SIGKILL).unwrap();
    loop {
        match waitpid(process, Some(WaitPidFlag::__WALL)).unwrap() {
            // It had just begun.
            WaitStatus::PtraceEvent(..) => {}
            WaitStatus::Signaled(..) => return,
            other => panic!("{process}: {other:?}"),
        }
    }
}

/// Waits until a thread that was interrupted has stopped for that.
fn await_interruption(thread: Pid) -> Result<(), Errno> {
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL))? {
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_STOP) => return Ok(()),
            WaitStatus::Stopped(_, signal) => ptrace::cont(thread, signal)?,
            WaitStatus::PtraceEvent(..) | WaitStatus::PtraceSyscall(_) => {
                ptrace::cont(thread, None)?;
            }
            _ => return Err(Errno::ESRCH),
        }
    }
}

/// Returns whether a filter's signal is on its way to a thread.
fn is_doomed(thread: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let pending = u64::from_str_radix(pending.unwrap().trim(), 16).unwrap();
    pending >> (libc::SIGSYS - 1) & 1 == 1
}

fn options(others: i32) -> Options {
    Options::PTRACE_O_TRACESYSGOOD | Options::from_bits_retain(others)
}

fn memory(process: Pid) -> File {
    let opened = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{process}/mem"));
    opened.unwrap_or_else(|error: io::Error| panic!("the memory of {process}: {error}"))
}
