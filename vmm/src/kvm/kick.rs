//! Gets a vCPU's thread out of the guest.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMAX, SIGRTMIN};

/// Makes the thread that runs a vCPU leave `KVM_RUN`, and stay out of it until
/// [`clear`](Kick::clear).
///
/// Two things are needed: `immediate_exit` for a thread that is about to enter the guest, and a
/// signal for a thread that is in it.
pub(crate) struct Kick {
    run: NonNull<kvm_run>,
    size: usize,
    /// The thread's id; 0 when there is none.
    thread: AtomicI32,
}

// SAFETY: the mapping belongs to the value, and only one byte of it is ever accessed, atomically.
unsafe impl Send for Kick {}
// SAFETY: as above.
unsafe impl Sync for Kick {}

impl Kick {
    /// Makes one for `vcpu`, whose shared page is mapped a second time: the first mapping is its
    /// thread's.
    pub(crate) fn new(vcpu: &VcpuFd) -> io::Result<Kick> {
        let size = size_of::<kvm_run>().next_multiple_of(4096);
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(run) if address != libc::MAP_FAILED => Ok(Kick {
                run,
                size,
                thread: AtomicI32::new(0),
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Called by the vCPU's thread, before it first runs the vCPU.
    pub(crate) fn adopt(&self) {
        // SAFETY: gettid() always succeeds.
        let thread = unsafe { libc::gettid() };
        self.thread.store(thread, Ordering::Release);
    }

    /// Called by the vCPU's thread when it won't run the vCPU any more.
    pub(crate) fn release(&self) {
        self.thread.store(0, Ordering::Release);
    }

    /// Kicks the thread. Does nothing if the thread has finished.
    pub(crate) fn kick(&self) {
        self.set_immediate_exit(1);
        let thread = self.thread.load(Ordering::SeqCst);
        if let (Some(signal), true) = (signal(), thread != 0) {
            // SAFETY: sends a signal whose handler does nothing to a thread of this process,
            // or to none if the thread has just ended.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
        }
    }
}

impl Kick {
    /// Called by the vCPU's thread: allows it to enter the guest again.
    pub(crate) fn clear(&self) {
        self.set_immediate_exit(0);
    }

    fn set_immediate_exit(&self, value: u8) {
        // SAFETY: the field lies in our mapping, which lives as long as `self`; the kernel
        // and other threads access that byte as a whole.
        let immediate_exit =
            unsafe { AtomicU8::from_ptr(&raw mut (*self.run.as_ptr()).immediate_exit) };
        immediate_exit.store(value, Ordering::SeqCst);
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping, of that size, and nothing else refers to it.
        unsafe { libc::munmap(self.run.as_ptr().cast(), self.size) };
    }
}

/// Returns the signal that kicks: a real-time signal that nothing else in the process handles. Its
/// handler does nothing; a system call that it interrupts isn't restarted.
///
/// `None` if all of them are in use.
pub(crate) fn signal() -> Option<libc::c_int> {
    static SIGNAL: OnceLock<Option<libc::c_int>> = OnceLock::new();
    *SIGNAL.get_or_init(|| (SIGRTMIN()..=SIGRTMAX()).find(|&signal| claim(signal).is_some()))
}

/// Installs the handler for `signal`, if it has none.
fn claim(signal: libc::c_int) -> Option<()> {
    extern "C" fn nothing(_: libc::c_int) {}

    // SAFETY: sigaction is plain data, for which zeros are valid; the pointers are to values
    // on this stack; the handler does nothing, which is async-signal-safe.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &mut old) < 0
            || old.sa_sigaction != libc::SIG_DFL
        {
            return None;
        }
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        (libc::sigaction(signal, &new, std::ptr::null_mut()) == 0).then_some(())
    }
}

/// The signals of a thread's own faults. If they were blocked, they would kill the process before a
/// handler could say why.
const OWN_FAULTS: [libc::c_int; 6] = [
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
];

/// A thread's signal mask, restored when dropped.
pub(crate) struct Masked(libc::sigset_t);

impl Masked {
    /// Blocks every signal except the one that kicks and those that a thread causes itself, so that
    /// threads created meanwhile never take a signal that was meant for the process.
    pub(crate) fn new() -> Masked {
        // SAFETY: sigset_t is plain data, and all pointers are to values on this stack. The
        // calls fail only for signals out of range.
        unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut mask);
            for signal in OWN_FAULTS.into_iter().chain(signal()) {
                libc::sigdelset(&mut mask, signal);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &mask, &mut old);
            Masked(old)
        }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        // SAFETY: the mask is one that pthread_sigmask returned.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_is_a_real_time_one_and_always_the_same() {
        let first = signal().unwrap();
        assert!((SIGRTMIN()..=SIGRTMAX()).contains(&first));
        assert_eq!(signal(), Some(first));
    }

    #[test]
    fn a_signal_in_use_is_left_alone() {
        let first = signal().unwrap();
        assert_eq!(claim(first), None);
    }

    #[test]
    fn the_mask_is_put_back() {
        let blocked = || vmm_sys_util::signal::get_blocked_signals().unwrap();
        let before = blocked();
        let masked = Masked::new();
        assert!(blocked().contains(&libc::SIGTERM));
        assert!(!blocked().contains(&signal().unwrap()));
        assert!(!blocked().contains(&libc::SIGSEGV));
        drop(masked);
        assert_eq!(blocked(), before);
    }
}
