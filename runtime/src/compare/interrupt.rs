//! The signals that end a comparison, which then still cleans up.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::error::CompareError;

/// The last one that has arrived; 0 for none.
static SEEN: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    SEEN.store(signal, Ordering::Relaxed);
}

/// Has SIGINT, SIGTERM and SIGHUP noted. What is executed has their default actions: blocked signals
/// would be its workload's, too.
pub(super) fn catch() -> Result<(), CompareError> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but store a number.
        let caught = unsafe { sigaction(signal, &action) };
        caught.map_err(|e| CompareError::host("catch signals")(e.into()))?;
    }
    Ok(())
}

/// Returns the signal that has arrived.
pub(super) fn seen() -> Option<i32> {
    Some(SEEN.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// Fails if one has arrived.
pub(super) fn check() -> Result<(), CompareError> {
    seen().map_or(Ok(()), |signal| Err(CompareError::Interrupted(signal)))
}
