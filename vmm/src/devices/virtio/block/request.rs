//! Handles requests (virtio 1.3, section 5.2.6): a header and, in the order that the direction
//! determines, data and a status byte.
//!
//! A chain without a whole header or without room for the status can't be answered and stops the
//! device. All other errors in a request are reported in its status.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::GuestMemoryMmap;

use super::image::{Blocks, Image, Range, SECTOR};
use super::limits::{
    MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_SERIAL, MAX_ZEROES_RANGES, MAX_ZEROES_SECTORS,
};
use crate::devices::virtio::buffers::Buffers;
use crate::devices::virtio::queue::{Chain, DeviceQueue};
use crate::devices::virtio::thread::{Failure, Stop};
use crate::devices::virtio::throttle::Brake;

/// `struct virtio_blk_outhdr`: type, reserved, sector.
const HEADER: usize = 16;

/// `struct virtio_blk_discard_write_zeroes`: sector, number of sectors, flags.
const RANGE: usize = 16;

/// How many of the host's errors are reported: the guest can cause any number of them.
const REPORTED_ERRORS: u32 = 8;

/// What a disk's queues share.
pub(super) struct Disk {
    pub(super) image: Image,
    pub(super) serial: [u8; MAX_SERIAL],
    /// Whether a write may be answered before it is on the medium (`writeback`, 5.2.5).
    pub(super) writeback: AtomicBool,
    errors: AtomicU32,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It makes no sense, or the host had an error.
    Error,
    /// Its type or one of its flags isn't supported.
    Unsupported,
}

/// Works on a queue until told to stop, or until the queue turns out to be broken.
pub(super) fn run(
    disk: &Disk,
    queue: &mut DeviceQueue,
    memory: &Arc<GuestMemoryMmap>,
    brake: &mut Brake,
    stop: &Stop,
) -> Result<(), Failure> {
    loop {
        // The first time, for what was left when the device was stopped: nobody notifies of it.
        queue.pause_notifications()?;
        while brake.wait(stop)? {
            match queue.pop(memory)? {
                Some(chain) => {
                    let head = chain.head;
                    let written = disk
                        .serve(chain, brake)
                        .map_err(|why| queue.bad_chain(head, why))?;
                    queue.push(head, written)?;
                    // Whoever waits for this answer shouldn't have to wait for the next one.
                    queue.signal()?;
                }
                None if queue.resume_notifications()? => {}
                None => break,
            }
        }
        if !stop.wait(&[queue.notify().as_raw_fd()])? {
            return Ok(());
        }
        queue.acknowledge();
    }
}

impl Disk {
    pub(super) fn new(image: Image, serial: [u8; MAX_SERIAL]) -> Disk {
        Disk {
            image,
            serial,
            writeback: AtomicBool::new(true),
            errors: AtomicU32::new(0),
        }
    }

    /// Carries out a chain's request. Returns how many bytes were written to the chain, or what is
    /// wrong with it.
    fn serve(&self, mut chain: Chain<'_>, brake: &Brake) -> Result<usize, &'static str> {
        let mut header = [0; HEADER];
        if chain.readable.read(&mut header) < HEADER {
            return Err("is shorter than a request's header");
        }
        let room = chain.writable.len().checked_sub(1);
        let data = chain.writable.take(room.ok_or("has no room for a status")?);
        brake.charge(chain.readable.len() as u64 + data.len() as u64);
        let (written, status) = match self.execute(header, chain.readable, data, brake) {
            Ok(written) => (written, VIRTIO_BLK_S_OK),
            Err(Refusal::Error) => (0, VIRTIO_BLK_S_IOERR),
            Err(Refusal::Unsupported) => (0, VIRTIO_BLK_S_UNSUPP),
        };
        // Only the last byte is left.
        Ok(written + chain.writable.write(&[status as u8]))
    }

    /// Executes a request; returns how many bytes of `input` were filled.
    fn execute(
        &self,
        header: [u8; HEADER],
        mut output: Buffers<'_>,
        mut input: Buffers<'_>,
        brake: &Brake,
    ) -> Result<usize, Refusal> {
        let [kind, _, low, high] = words(header);
        let sector = u64::from(high) << 32 | u64::from(low);
        let writable = !self.image.is_read_only();
        match kind {
            VIRTIO_BLK_T_IN => {
                let length = input.len();
                let range = self.range(sector, length as u64)?;
                self.done("reading", self.image.read(range, input))?;
                return Ok(length);
            }
            VIRTIO_BLK_T_OUT if writable => {
                let range = self.range(sector, output.len() as u64)?;
                let outcome = self.image.write(range, output, self.is_write_through());
                self.done("writing", outcome)?;
            }
            VIRTIO_BLK_T_OUT => return Err(Refusal::Error),
            VIRTIO_BLK_T_FLUSH => self.done("flushing", self.image.flush())?,
            VIRTIO_BLK_T_GET_ID => return Ok(input.write(&self.serial)),
            VIRTIO_BLK_T_DISCARD if writable => {
                let limits = (MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, 0);
                let mut ranges = [None; MAX_DISCARD_RANGES];
                self.read_ranges(&mut output, limits, &mut ranges)?;
                for (range, _) in ranges.into_iter().flatten() {
                    brake.charge(0);
                    self.done("discarding", self.image.discard(range))?;
                }
                self.settle()?;
            }
            VIRTIO_BLK_T_WRITE_ZEROES if writable => {
                let unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
                let limits = (MAX_ZEROES_RANGES, MAX_ZEROES_SECTORS, unmap);
                let mut ranges = [None; MAX_ZEROES_RANGES];
                self.read_ranges(&mut output, limits, &mut ranges)?;
                for (range, flags) in ranges.into_iter().flatten() {
                    // They may have to be written.
                    brake.charge(range.length());
                    let blocks = if flags & unmap != 0 {
                        Blocks::GivenBack
                    } else {
                        Blocks::Kept
                    };
                    let outcome = self.image.write_zeroes(range, blocks);
                    self.done("writing zeroes", outcome)?;
                }
                self.settle()?;
            }
            _ => return Err(Refusal::Unsupported),
        }
        Ok(0)
    }

    fn range(&self, sector: u64, length: u64) -> Result<Range, Refusal> {
        self.image.range(sector, length).ok_or(Refusal::Error)
    }

    /// Reads ranges and their flags into `ranges`, and checks all of them before the first is
    /// handled. The limits: ranges, sectors in each, flags.
    fn read_ranges(
        &self,
        output: &mut Buffers<'_>,
        (count, sectors, flags): (usize, u32, u32),
        ranges: &mut [Option<(Range, u32)>],
    ) -> Result<(), Refusal> {
        let length = output.len();
        if length == 0 || !length.is_multiple_of(RANGE) || length / RANGE > count {
            return Err(Refusal::Error);
        }
        for range in ranges.iter_mut().take(length / RANGE) {
            let mut bytes = [0; RANGE];
            output.read(&mut bytes);
            let [low, high, number, set] = words(bytes);
            if set & !flags != 0 {
                return Err(Refusal::Unsupported);
            }
            if number > sectors {
                return Err(Refusal::Error);
            }
            let sector = u64::from(high) << 32 | u64::from(low);
            *range = Some((self.range(sector, u64::from(number) * SECTOR)?, set));
        }
        Ok(())
    }

    fn is_write_through(&self) -> bool {
        !self.writeback.load(Ordering::Acquire)
    }

    /// Makes what isn't a plain write durable if writes are durable.
    fn settle(&self) -> Result<(), Refusal> {
        if self.is_write_through() {
            self.done("flushing", self.image.flush())?;
        }
        Ok(())
    }

    /// The guest learns only that something went wrong, so the error is reported here.
    fn done(&self, what: &str, outcome: io::Result<()>) -> Result<(), Refusal> {
        outcome.map_err(|error| {
            if self.errors.fetch_add(1, Ordering::Relaxed) < REPORTED_ERRORS {
                tracing::warn!("{what} a disk image: {error}");
            }
            Refusal::Error
        })
    }
}

/// Returns a structure's little-endian words.
fn words(bytes: [u8; 16]) -> [u32; 4] {
    let [low, high] = [0, 64].map(|shift| (u128::from_le_bytes(bytes) >> shift) as u64);
    [
        low as u32,
        (low >> 32) as u32,
        high as u32,
        (high >> 32) as u32,
    ]
}
