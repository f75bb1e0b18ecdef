//! Resets signals to what a freshly logged-in process would find.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// The number of the last signal.
const MAX_SIGNAL: i32 = 64;

/// Unblocks every signal and gives each its default action. Otherwise the workload would inherit
/// what the caller ignores (Rust programs ignore SIGPIPE) or blocks (for a signalfd).
pub(crate) fn reset() -> nix::Result<()> {
    // The kernel's sigaction: SIG_DFL, no flags, no restorer, an empty mask.
    let default = [0u64; 4];
    for signal in 1..=MAX_SIGNAL {
        // By the kernel's own call: the C library's leaves two signals out that it uses itself.
        // SAFETY: `default` is valid for the call, the mask's size is right, and no handler is
        // installed by it.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
        match Errno::result(result) {
            // SIGKILL and SIGSTOP can't be changed, and need not be.
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
