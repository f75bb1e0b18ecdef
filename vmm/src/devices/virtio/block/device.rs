//! The device: its features and configuration, and the threads of its queues.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::image::{Image, SECTOR};
use super::limits::{
    MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_SERIAL, MAX_ZEROES_RANGES, MAX_ZEROES_SECTORS,
};
use super::request::{self, Disk};
use crate::devices::virtio::queue::{self, BASIC_FEATURES};
use crate::devices::virtio::thread::DeviceThread;
use crate::devices::virtio::throttle::Throttle;
use crate::devices::virtio::{ActivateError, Activation, VirtioDevice, config};

/// How many queues a disk can have.
pub const MAX_QUEUES: u16 = 16;

const QUEUE_SIZE: u16 = 256;

/// A chain has a header and a status in addition to the data.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;

/// The block size of the host's file systems and page cache: for a smaller write the block is read
/// first, and a smaller hole frees nothing.
const HOST_BLOCK_EXPONENT: u8 = 3;
const HOST_BLOCK_SECTORS: u32 = 1 << HOST_BLOCK_EXPONENT;

/// `struct virtio_blk_config` up to the fields for zeroes, and its field `writeback`.
const CONFIG_SIZE: usize = 60;
const WRITEBACK: usize = 32;

/// The block device.
pub struct Block {
    disk: Arc<Disk>,
    queue_sizes: Vec<u16>,
    /// Whether the driver doesn't support `writeback`.
    cache_is_fixed: bool,
    throttle: Throttle,
    threads: Vec<DeviceThread>,
}

impl Block {
    /// Makes a disk on `image`, with the file's present size, writable if the file is opened for
    /// reading and writing. Nobody else may write to it in the meantime; this doesn't lock it. The
    /// driver is told `serial`, and gets `queues` queues, ideally one for each of its processors.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `image` isn't a regular file of whole sectors of 512 bytes, is opened in
    /// another way, or with `O_APPEND` or `O_DIRECT`; if `serial` is longer than [`MAX_SERIAL`] or
    /// contains bytes that aren't printable ASCII; if `queues` is 0 or more than [`MAX_QUEUES`].
    /// Otherwise the host's error when it is asked for the file's size.
    pub fn new(image: File, serial: &str, queues: u16) -> io::Result<Block> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        if serial.len() > MAX_SERIAL || !serial.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid(
                "the serial number must have at most 20 printable characters",
            ));
        }
        if queues == 0 || queues > MAX_QUEUES {
            return Err(invalid("a disk must have 1 to 16 queues"));
        }
        let mut padded = [0; MAX_SERIAL];
        padded[..serial.len()].copy_from_slice(serial.as_bytes());
        Ok(Block {
            disk: Arc::new(Disk::new(Image::new(image)?, padded)),
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            cache_is_fixed: false,
            throttle: Throttle::default(),
            threads: Vec::new(),
        })
    }

    /// Limits what it does for its guest.
    pub fn with_throttle(self, throttle: Throttle) -> Block {
        Block { throttle, ..self }
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        let mut config = [0; CONFIG_SIZE];
        let mut put = |offset: usize, bytes: &[u8]| {
            config[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &self.disk.image.sectors().to_le_bytes());
        put(12, &MAX_SEGMENTS.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(24, &[HOST_BLOCK_EXPONENT, 0]);
        put(26, &(HOST_BLOCK_SECTORS as u16).to_le_bytes());
        let writeback = self.disk.writeback.load(Ordering::Acquire);
        put(WRITEBACK, &[writeback.into()]);
        put(34, &(self.queue_sizes.len() as u16).to_le_bytes());
        if !self.disk.image.is_read_only() {
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &(MAX_DISCARD_RANGES as u32).to_le_bytes());
            put(44, &HOST_BLOCK_SECTORS.to_le_bytes());
            put(48, &MAX_ZEROES_SECTORS.to_le_bytes());
            put(52, &(MAX_ZEROES_RANGES as u32).to_le_bytes());
            // Zeroes may be holes.
            put(56, &[1]);
        }
        config
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
        ];
        if self.disk.image.is_read_only() {
            bits.push(VIRTIO_BLK_F_RO);
        } else {
            bits.extend([
                VIRTIO_BLK_F_FLUSH,
                VIRTIO_BLK_F_CONFIG_WCE,
                VIRTIO_BLK_F_DISCARD,
                VIRTIO_BLK_F_WRITE_ZEROES,
            ]);
        }
        if self.queue_sizes.len() > 1 {
            bits.push(VIRTIO_BLK_F_MQ);
        }
        bits.iter().fold(BASIC_FEATURES, |all, bit| all | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (true, &[value @ (0 | 1)]) = (offset == WRITEBACK as u64, data)
            && !self.cache_is_fixed
        {
            self.disk.writeback.store(value == 1, Ordering::Release);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.threads.clear();
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let accepted = |bit: u32| activation.features & 1 << bit != 0;
        self.cache_is_fixed = !accepted(VIRTIO_BLK_F_CONFIG_WCE);
        if self.cache_is_fixed {
            // A driver that can't flush relies on its writes being durable.
            let writeback = accepted(VIRTIO_BLK_F_FLUSH);
            self.disk.writeback.store(writeback, Ordering::Release);
        }
        let mut queues = queue::start_ready_queues(activation)?;
        if queues.first().is_none_or(Option::is_none) {
            return Err(ActivateError::QueueNotReady(0));
        }
        for mut queue in queues.drain(..).flatten() {
            let (disk, memory) = (Arc::clone(&self.disk), Arc::clone(&memory));
            let brake = self.throttle.brake().map_err(|source| ActivateError::Host {
                what: "making a timer for the disk's limit",
                source,
            });
            let mut brake = brake?;
            let work = move |stop: &_| request::run(&disk, &mut queue, &memory, &mut brake, stop);
            let thread = DeviceThread::spawn("block", Arc::clone(&interrupt), work)?;
            self.threads.push(thread);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.threads.clear();
        self.cache_is_fixed = false;
        self.disk.writeback.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
