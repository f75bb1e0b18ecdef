//! Tests a disk, whose queues QEMU hands over all.

use std::os::unix::fs::FileExt;

use super::*;
use crate::devices::virtio::block::Block;

/// Makes a disk with that many queues, on `image`.
fn disk(image: &File, queues: u16) -> Qemu {
    let disk = Block::new(image.try_clone().unwrap(), "a-disk", queues).unwrap();
    Qemu::connect(Box::new(disk), queues.into())
}

/// Writes sector 2 through a queue of a disk. Returns the status.
fn write_sector(qemu: &mut Qemu, queue: usize, data: &[u8; 512]) -> u8 {
    let [header, at, status] = [0, 0x1000, 0x2000].map(|offset| BUFFERS + offset);
    let put = |at, bytes: &[u8]| qemu.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    put(header, &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    put(at, data);
    put(status, &[0xaa]);
    let parts = [(header, 16, false), (at, 512, false), (status, 1, true)];
    assert_eq!(qemu.queues[queue].run(&parts), 1);
    qemu.memory.read_obj(GuestAddress(status)).unwrap()
}

#[test]
fn a_disk_works_in_all_of_its_queues() {
    let image = tempfile::tempfile().unwrap();
    image.set_len(1 << 20).unwrap();
    let mut qemu = disk(&image, 2);
    qemu.start(&[256, 256]);
    for queue in [0, 1] {
        let data = [7 + queue as u8; 512];
        assert_eq!(write_sector(&mut qemu, queue, &data), 0);
        let mut written = [0; 512];
        image.read_exact_at(&mut written, 1024).unwrap();
        assert_eq!(written, data);
        wait_for("an interrupt", || qemu.calls[queue].read().ok());
    }
    assert_eq!(*qemu.failure.lock().unwrap(), None);
}

#[test]
fn a_disk_says_what_it_is_and_its_cache_is_turned_off() {
    // From `struct virtio_blk_config`.
    const WRITEBACK: u32 = 32;
    const SIZE: u32 = 60;
    let image = tempfile::tempfile().unwrap();
    image.set_len(1 << 20).unwrap();
    let mut qemu = disk(&image, 2);
    let flags = VhostUserConfigFlags::WRITABLE;
    let buffer = [0; SIZE as usize];
    let (_, config) = qemu.front.get_config(0, SIZE, flags, &buffer).unwrap();
    assert_eq!(config[..8], 2048u64.to_le_bytes());
    assert_eq!((config[32], config[34]), (1, 2));
    qemu.front.set_config(WRITEBACK, flags, &[0]).unwrap();
    let (_, cache) = qemu.front.get_config(WRITEBACK, 1, flags, &[9]).unwrap();
    assert_eq!(cache, [0]);
    assert_eq!(*qemu.failure.lock().unwrap(), None);
}
