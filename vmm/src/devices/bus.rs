//! Guest-physical addresses that belong to devices: the virtio-mmio pages.

use std::sync::{Mutex, MutexGuard};

use super::virtio::mmio::{self, MmioTransport};
use crate::arch::{MMIO_DEVICE_SIZE, MMIO_START};

/// The places of devices, one page each, one after the other. A place without a device is a
/// placeholder, which drivers skip (virtio 1.3, section 4.2.3.1.1).
///
/// An access locks only the place that it hits. A device's own threads don't take that lock: a vCPU
/// that holds it may be waiting for them.
pub(crate) struct MmioBus {
    places: Vec<Mutex<Option<MmioTransport>>>,
}

impl MmioBus {
    /// Makes a bus with `devices`, followed by `empty` places.
    pub(crate) fn new(devices: Vec<MmioTransport>, empty: usize) -> MmioBus {
        let devices = devices.into_iter().map(Some);
        let empty = std::iter::repeat_with(|| None).take(empty);
        MmioBus {
            places: devices.chain(empty).map(Mutex::new).collect(),
        }
    }

    /// Handles the guest's read of `data` from `address`: all ones where nothing is.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((place, offset)) => match &*place {
                Some(device) => device.read(offset, data),
                None => mmio::read_placeholder(offset, data),
            },
            None => data.fill(0xff),
        }
    }

    /// Handles the guest's write of `data` to `address`.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((mut place, offset)) = self.find(address)
            && let Some(device) = place.as_mut()
        {
            device.write(offset, data);
        }
    }

    /// Locks a place, so that no vCPU can reach it; `None` beyond the last.
    pub(crate) fn place(&self, index: usize) -> Option<MutexGuard<'_, Option<MmioTransport>>> {
        self.places.get(index).map(lock)
    }

    /// Stops all devices.
    pub(crate) fn reset(&self) {
        for place in &self.places {
            if let Some(device) = lock(place).as_mut() {
                device.reset();
            }
        }
    }

    fn find(&self, address: u64) -> Option<(MutexGuard<'_, Option<MmioTransport>>, u64)> {
        let offset = address.checked_sub(MMIO_START)?;
        let place = self.place(usize::try_from(offset / MMIO_DEVICE_SIZE).ok()?)?;
        Some((place, offset % MMIO_DEVICE_SIZE))
    }
}

fn lock(place: &Mutex<Option<MmioTransport>>) -> MutexGuard<'_, Option<MmioTransport>> {
    place.lock().unwrap_or_else(|e| e.into_inner())
}
