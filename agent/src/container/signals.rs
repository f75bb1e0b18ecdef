//! Signals, as a freshly logged-in process would find them.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Unblocks every signal and gives each its default action. What the caller ignores (Rust
/// programs ignore SIGPIPE) or blocks (for a signalfd) would reach the workload otherwise.
pub(super) fn reset() -> nix::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: all zeroes is a valid sigaction: SIG_DFL, no flags, an empty mask.
        let default: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: `default` is valid for the call, and no handler is installed by it.
        let result = unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
        // SIGKILL, SIGSTOP and the C library's own two can't be changed, and need not be.
        match Errno::result(result) {
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
