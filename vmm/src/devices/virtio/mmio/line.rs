//! A device's line to its driver: the registers that its threads share with the transport, which are
//! its status and its interrupt.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::Interrupt;

/// How many of a device's failures are reported.
pub(super) const REPORTED_FAILURES: u32 = 8;

/// Bits of `Status`.
pub(super) const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
pub(super) const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
pub(super) const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
pub(super) const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
pub(super) const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
pub(super) const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// Bits of `InterruptStatus`.
pub(super) const USED_BUFFER: u32 = 1;
pub(super) const CONFIG_CHANGE: u32 = 2;

/// What the device's threads and the registers share: the device's status and its interrupt.
pub(super) struct Line {
    device_type: u32,
    /// The `Status` register.
    status: AtomicU32,
    /// The `InterruptStatus` register.
    interrupt: AtomicU32,
    /// The `ConfigGeneration` register.
    generation: AtomicU32,
    /// How often the device has failed.
    failures: AtomicU32,
    /// Whether somebody else raises the interrupt, too, who can't set its bits.
    is_shared: AtomicBool,
    irq: EventFd,
}

impl Line {
    /// Makes the line of a device that nobody has found yet; writing `irq` raises its interrupt.
    pub(super) fn new(device_type: u32, irq: EventFd) -> Line {
        Line {
            device_type,
            status: AtomicU32::new(0),
            interrupt: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            is_shared: AtomicBool::new(false),
            irq,
        }
    }

    /// Returns the event that raises the interrupt.
    pub(super) fn irq(&self) -> &EventFd {
        &self.irq
    }

    fn raise(&self, why: u32) {
        self.interrupt.fetch_or(why, Ordering::AcqRel);
        // This fails only if the counter is at its maximum: then the interrupt is pending.
        let _ = self.irq.write(1);
    }

    /// Returns the `InterruptStatus` register. A driver that is told of a used buffer looks at its
    /// rings, and finds nothing new if there isn't any.
    pub(super) fn interrupt_status(&self) -> u32 {
        let known = self.interrupt.load(Ordering::Acquire);
        if self.is_shared.load(Ordering::Acquire) {
            known | USED_BUFFER
        } else {
            known
        }
    }

    /// Clears the bits of `InterruptStatus` that the driver has seen.
    pub(super) fn acknowledge(&self, seen: u32) {
        self.interrupt.fetch_and(!seen, Ordering::AcqRel);
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    pub(super) fn add_status(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::AcqRel);
    }

    /// Clears status and interrupt, as a reset of the device does.
    pub(super) fn reset(&self) {
        self.interrupt.store(0, Ordering::Release);
        self.status.store(0, Ordering::Release);
    }

    /// Returns whether another failure is to be reported: the guest can make a device fail any
    /// number of times, but must not make the log grow.
    pub(super) fn counts_as_news(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) < REPORTED_FAILURES
    }
}

impl Interrupt for Line {
    fn signal_used(&self, _index: u16) {
        self.raise(USED_BUFFER);
    }

    fn signal_config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(CONFIG_CHANGE);
    }

    fn fail(&self, why: &str) {
        if self.counts_as_news() {
            let device_type = self.device_type;
            tracing::error!(device_type, "virtio device failed: {why}");
        }
        let before = self.status.fetch_or(NEEDS_RESET, Ordering::AcqRel);
        if before & DRIVER_OK != 0 {
            self.signal_config();
        }
    }

    fn used_event(&self) -> Option<&EventFd> {
        self.is_shared.store(true, Ordering::Release);
        Some(&self.irq)
    }
}
