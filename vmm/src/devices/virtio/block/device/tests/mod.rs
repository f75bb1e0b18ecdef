//! Tests the device as a driver sees it, on real files.

mod cache;
mod data;
mod hostile;
mod limits;

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_SECURE_ERASE, VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::*;
use crate::devices::virtio::testing::*;

const SECTORS: u64 = 8192;
const SIZE: u64 = SECTORS * 512;

/// Where tests put a request's header, its status and its data.
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x1000;
const DATA: u64 = BUFFERS + 0x10_0000;

const OK: u8 = 0;
const ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// A value that no device writes.
const UNTOUCHED: u8 = 0xaa;

const WCE: u64 = 1 << VIRTIO_BLK_F_CONFIG_WCE;
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

/// Makes a sparse file of zeroes that disappears once it is closed.
fn image() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    file
}

fn block(image: &File) -> Block {
    Block::new(image.try_clone().unwrap(), "disk-1", 1).unwrap()
}

fn machine(image: &File) -> Machine<Block> {
    Machine::new(block(image))
}

/// Activates the device again, for a driver that accepts `features`.
fn accept(machine: &mut Machine<Block>, features: u64) {
    machine.device.reset();
    machine.features = features;
    machine.activate();
}

fn request_on(
    machine: &mut Machine<Block>,
    queue: usize,
    (kind, sector): (u32, u64),
    data: &[Part],
) -> (u8, u32) {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    machine.write(HEADER, &header);
    machine.write(STATUS, &[UNTOUCHED]);
    let mut parts = vec![(HEADER, 16, false)];
    parts.extend(data);
    parts.push((STATUS, 1, true));
    let written = machine.queues[queue].run(&parts);
    (machine.read(STATUS, 1)[0], written)
}

/// Makes a request. Returns its status and how many bytes the device says it wrote.
fn request(machine: &mut Machine<Block>, kind: u32, sector: u64, data: &[Part]) -> (u8, u32) {
    request_on(machine, 0, (kind, sector), data)
}

/// Makes a request with ranges: sector, number of sectors, flags.
fn ranges(machine: &mut Machine<Block>, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
    let mut bytes = Vec::new();
    for (sector, number, flags) in ranges {
        bytes.extend(sector.to_le_bytes());
        bytes.extend(number.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
    }
    machine.write(DATA, &bytes);
    request(machine, kind, 0, &[(DATA, bytes.len() as u32, false)]).0
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 5 + n / 512) as u8).collect()
}

fn content(image: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    image.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// Returns how many bytes the file system stores for the file.
fn kept(image: &File) -> u64 {
    image.sync_all().unwrap();
    image.metadata().unwrap().blocks() * 512
}

fn works(machine: &mut Machine<Block>) {
    machine.write(DATA, b"works");
    let parts = [(DATA, 512, false)];
    assert_eq!(request(machine, VIRTIO_BLK_T_OUT, 3, &parts), (OK, 1));
    machine.write(DATA, &[0; 512]);
    let parts = [(DATA, 512, true)];
    assert_eq!(request(machine, VIRTIO_BLK_T_IN, 3, &parts), (OK, 513));
    assert_eq!(machine.read(DATA, 5), b"works");
}
