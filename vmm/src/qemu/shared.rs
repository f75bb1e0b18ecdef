//! What the threads of a machine under QEMU share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::console::Console;
use crate::end::{End, Threads};
use crate::error::Error;

/// What the threads of a machine share.
pub(super) struct Shared {
    pub(super) end: End,
    /// QEMU has exited by itself, as a program does that isn't a suitable QEMU.
    pub(super) exited: AtomicBool,
    pub(super) console: Arc<Console>,
    pub(super) threads: Threads,
}

impl Shared {
    /// Ends the machine because of a device. Whoever says so can't kill QEMU, whose user is another:
    /// the watch does it.
    pub(super) fn device_failed(&self, device: &'static str, why: &str) {
        let failure = Error::DeviceFailed {
            device,
            reason: why.to_owned(),
            console_tail: self.console.tail(),
        };
        self.end.set(Err(failure));
    }
}
