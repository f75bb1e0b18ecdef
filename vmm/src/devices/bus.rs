//! Guest-physical addresses that are devices: the virtio-mmio pages.

use std::sync::{Mutex, MutexGuard};

use super::virtio::mmio::MmioTransport;
use crate::arch::{MMIO_DEVICE_SIZE, MMIO_START};

/// The devices, each in a page of its own, one after the other.
///
/// An access takes the lock of the device that it meets, and no other. A device's own threads
/// don't take it: a vCPU that holds it may wait for them.
pub(crate) struct MmioBus {
    devices: Vec<Mutex<MmioTransport>>,
}

impl MmioBus {
    pub(crate) fn new(devices: Vec<MmioTransport>) -> MmioBus {
        MmioBus {
            devices: devices.into_iter().map(Mutex::new).collect(),
        }
    }

    /// The guest reads `data` from `address`: all ones where nothing is.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes `data` to `address`.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((mut device, offset)) = self.find(address) {
            device.write(offset, data);
        }
    }

    /// Stops all devices.
    pub(crate) fn reset(&self) {
        for device in &self.devices {
            lock(device).reset();
        }
    }

    fn find(&self, address: u64) -> Option<(MutexGuard<'_, MmioTransport>, u64)> {
        let offset = address.checked_sub(MMIO_START)?;
        let index = usize::try_from(offset / MMIO_DEVICE_SIZE).ok()?;
        let device = self.devices.get(index)?;
        Some((lock(device), offset % MMIO_DEVICE_SIZE))
    }
}

fn lock(device: &Mutex<MmioTransport>) -> MutexGuard<'_, MmioTransport> {
    device.lock().unwrap_or_else(|e| e.into_inner())
}
