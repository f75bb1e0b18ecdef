//! A machine that runs, and how it ends.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::Ports;
use crate::console::Console;
use crate::devices::bus::MmioBus;
use crate::error::Error;
use crate::kick::Kick;
use crate::vcpu::Vcpu;

/// How long the vCPUs' threads have for coming out of the guest. They are out within
/// milliseconds; a device's reset may take longer.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered it off, through the exit port.
    PowerOff,
    /// The guest reset it. Where a guest can't power off, this is how it ends.
    Reset,
    /// [`RunningVm::stop`] ended it.
    Stopped,
}

/// A machine that runs, or has ended by itself.
///
/// Dropping it stops it.
pub struct RunningVm {
    machine: Arc<Machine>,
    threads: Vec<JoinHandle<()>>,
}

impl RunningVm {
    /// Readable once the machine has ended by itself or failed, or was stopped.
    pub fn exit_event(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the event's, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.machine.event.as_raw_fd()) }
    }

    /// The last lines of the serial console, without control characters.
    pub fn console_tail(&self) -> String {
        self.machine.console_tail()
    }

    /// Stops it, wherever the guest is. Does nothing if it has ended already.
    pub fn stop(&mut self) {
        self.machine.end(Ok(Exit::Stopped));
    }

    /// Says how it ended; stops it if it hasn't. To wait for it to end by itself, wait for
    /// [`exit_event`](Self::exit_event) first.
    ///
    /// # Errors
    ///
    /// What made the machine fail, or [`Error::StopTimeout`].
    pub fn wait(mut self) -> Result<Exit, Error> {
        self.finish()
    }

    /// Of a machine that has no vCPU running yet.
    pub(crate) fn new(machine: Arc<Machine>) -> RunningVm {
        RunningVm {
            machine,
            threads: Vec::new(),
        }
    }

    /// Lets a vCPU run in a thread of its own.
    pub(crate) fn spawn(&mut self, name: String, vcpu: Vcpu) -> io::Result<()> {
        *self.machine.threads() += 1;
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || vcpu.run())
            .inspect_err(|_| self.machine.thread_done())?;
        self.threads.push(thread);
        Ok(())
    }

    fn finish(&mut self) -> Result<Exit, Error> {
        self.stop();
        if !self.machine.threads_ended(STOP_LIMIT) {
            // They keep what they need; nothing can be done about them.
            self.threads.clear();
            return Err(Error::StopTimeout);
        }
        for thread in self.threads.drain(..) {
            // One that panicked has recorded that as the machine's end.
            let _ = thread.join();
        }
        self.machine.mmio.reset();
        let outcome = self.machine.end_state().outcome.take();
        outcome.unwrap_or(Ok(Exit::Stopped))
    }
}

impl Drop for RunningVm {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// What the vCPUs' threads share.
///
/// Fields are dropped in their order: guest memory after the VM that has it mapped.
pub(crate) struct Machine {
    pub(crate) ports: Ports,
    pub(crate) mmio: MmioBus,
    console: Arc<Console>,
    end: Mutex<End>,
    ended: AtomicBool,
    event: EventFd,
    /// How many vCPU threads there are.
    threads: Mutex<usize>,
    thread_ended: Condvar,
    _vm: VmFd,
    _memory: Arc<GuestMemoryMmap>,
}

/// How the machine ended, and what makes the vCPUs see that it has.
#[derive(Default)]
struct End {
    outcome: Option<Result<Exit, Error>>,
    kicks: Vec<Arc<Kick>>,
}

impl Machine {
    pub(crate) fn new(
        ports: Ports,
        mmio: MmioBus,
        console: Arc<Console>,
        vm: VmFd,
        memory: Arc<GuestMemoryMmap>,
    ) -> io::Result<Machine> {
        Ok(Machine {
            ports,
            mmio,
            console,
            end: Mutex::new(End::default()),
            ended: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            threads: Mutex::new(0),
            thread_ended: Condvar::new(),
            _vm: vm,
            _memory: memory,
        })
    }

    /// What makes the vCPUs see that the machine has ended.
    pub(crate) fn set_kicks(&self, kicks: Vec<Arc<Kick>>) {
        self.end_state().kicks = kicks;
    }

    /// Ends the machine. The first to say how it ended is believed.
    pub(crate) fn end(&self, outcome: Result<Exit, Error>) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut end = self.end_state();
        end.outcome = Some(outcome);
        for kick in &end.kicks {
            kick.kick();
        }
        // The counter can't be near its maximum.
        let _ = self.event.write(1);
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(crate) fn console_tail(&self) -> String {
        self.console.tail()
    }

    /// A vCPU's thread is through.
    pub(crate) fn thread_done(&self) {
        *self.threads() -= 1;
        self.thread_ended.notify_all();
    }

    /// Waits for the vCPUs' threads to be through, at most for `limit`.
    fn threads_ended(&self, limit: Duration) -> bool {
        let (threads, _) = self
            .thread_ended
            .wait_timeout_while(self.threads(), limit, |threads| *threads > 0)
            .unwrap_or_else(|e| e.into_inner());
        *threads == 0
    }

    fn threads(&self) -> MutexGuard<'_, usize> {
        self.threads.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn end_state(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(|e| e.into_inner())
    }
}
