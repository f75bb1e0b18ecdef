//! Tests what a disk does for a driver.

use std::fs;

use super::*;

#[test]
fn configuration_and_features() {
    let file = image();
    let disk = Block::new(file.try_clone().unwrap(), "", 4).unwrap();
    assert_eq!(disk.device_type(), 2);
    assert_eq!(disk.queue_sizes(), [256; 4]);
    let bits = [2, 6, 9, 10, 11, 12, 13, 14];
    let expected = bits.iter().fold(0, |all, bit| all | 1 << bit);
    assert_eq!(disk.features() & 0xff_ffff, expected);
    let mut config = [9; 64];
    disk.read_config(0, &mut config);
    let word = |at: usize| u32::from_le_bytes(*config[at..].first_chunk().unwrap());
    assert_eq!((word(0), word(4)), (SECTORS as u32, 0));
    assert_eq!((word(8), word(12), word(20)), (0, 254, 512));
    // A block of the host has 8 sectors, so writes should have as many.
    assert_eq!(config[24..32], [3, 0, 8, 0, 0, 0, 0, 0]);
    assert_eq!(config[32..36], [1, 0, 4, 0]);
    assert_eq!((word(36), word(40), word(44)), (1 << 22, 16, 8));
    assert_eq!((word(48), word(52)), (1 << 17, 1));
    assert_eq!(config[56..60], [1, 0, 0, 0]);
    assert_eq!(config[60..], [9; 4]);
}

#[test]
fn data_goes_to_the_image_and_back() {
    let file = image();
    let mut machine = machine(&file);
    let data = pattern(5 * 512);
    machine.write(DATA, &data);
    // Parts of any length, including an empty one.
    let out = [
        (DATA, 1, false),
        (DATA + 1, 0, false),
        (DATA + 1, 1023, false),
        (DATA + 1024, 1536, false),
    ];
    let status = request(&mut machine, VIRTIO_BLK_T_OUT, 7, &out);
    assert_eq!(status, (OK, 1));
    assert_eq!(content(&file, 7 * 512, data.len()), data);
    assert_eq!(content(&file, 0, 7 * 512), [0; 7 * 512]);

    let back = [(DATA + 0x8000, 2000, true), (DATA + 0x9000, 560, true)];
    let status = request(&mut machine, VIRTIO_BLK_T_IN, 7, &back);
    assert_eq!(status, (OK, 2561));
    assert_eq!(machine.read(DATA + 0x8000, 2000), data[..2000]);
    assert_eq!(machine.read(DATA + 0x9000, 560), data[2000..]);
    // The last sector, and no data.
    let last = [(DATA, 512, true)];
    let status = request(&mut machine, VIRTIO_BLK_T_IN, SECTORS - 1, &last);
    assert_eq!(status, (OK, 513));
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_IN, 0, &[]), (OK, 1));
}

#[test]
fn a_status_may_follow_data_in_one_part_and_a_header_may_be_in_many() {
    let file = image();
    file.write_all_at(&pattern(512), 512).unwrap();
    let mut machine = machine(&file);
    machine.write(HEADER, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    machine.write(DATA, &[UNTOUCHED; 514]);
    let mut parts: Vec<Part> = (0..16).map(|n| (HEADER + n, 1, false)).collect();
    parts.push((DATA, 513, true));
    assert_eq!(machine.queues[0].run(&parts), 513);
    assert_eq!(machine.read(DATA, 512), pattern(512));
    assert_eq!(machine.read(DATA + 512, 2), [OK, UNTOUCHED]);
}

#[test]
fn as_many_segments_as_are_offered_are_taken() {
    let file = image();
    let mut machine = machine(&file);
    let data = pattern(254 * 512);
    machine.write(DATA, &data);
    let out: Vec<Part> = (0..254).map(|n| (DATA + n * 512, 512, false)).collect();
    let status = request(&mut machine, VIRTIO_BLK_T_OUT, 0, &out);
    assert_eq!(status, (OK, 1));
    assert_eq!(content(&file, 0, data.len()), data);
}

#[test]
fn the_serial_number_is_told() {
    let mut machine = machine(&image());
    machine.write(DATA, &[UNTOUCHED; 30]);
    let status = request(&mut machine, VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 20, true)]);
    assert_eq!(status, (OK, 21));
    let mut expected = [0; 20];
    expected[..6].copy_from_slice(b"disk-1");
    assert_eq!(machine.read(DATA, 20), expected);
    // Less room and more.
    let status = request(&mut machine, VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 4, true)]);
    assert_eq!(status, (OK, 5));
    let status = request(&mut machine, VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 30, true)]);
    assert_eq!(status, (OK, 21));
    assert_eq!(machine.read(DATA + 20, 10), [UNTOUCHED; 10]);
}

#[test]
fn a_file_opened_for_reading_is_a_disk_that_nobody_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let data = pattern(SIZE as usize);
    fs::write(&path, &data).unwrap();
    let mut machine = Machine::new(Block::new(File::open(&path).unwrap(), "", 1).unwrap());
    let bits = [2, 5, 6, 10];
    let expected = bits.iter().fold(0, |all, bit| all | 1 << bit);
    assert_eq!(machine.device.features() & 0xff_ffff, expected);
    let mut limits = [9; 24];
    machine.device.read_config(36, &mut limits);
    assert_eq!(limits, [0; 24]);

    let read = [(DATA, 512, true)];
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_IN, 9, &read), (OK, 513));
    assert_eq!(machine.read(DATA, 512), data[9 * 512..10 * 512]);
    let write = [(BUFFERS + 0x2000, 512, false)];
    let status = request(&mut machine, VIRTIO_BLK_T_OUT, 9, &write);
    assert_eq!(status, (ERROR, 1));
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(ranges(&mut machine, kind, &[(0, 8, 0)]), UNSUPPORTED);
    }
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    assert!(fs::read(&path).unwrap() == data);
}

#[test]
fn discarded_blocks_become_holes() {
    let file = image();
    file.write_all_at(&pattern(SIZE as usize), 0).unwrap();
    assert_eq!(kept(&file), SIZE);
    let mut machine = machine(&file);
    let gone = [(0, 2048, 0), (4096, 1024, 0), (SECTORS, 0, 0)];
    assert_eq!(ranges(&mut machine, VIRTIO_BLK_T_DISCARD, &gone), OK);
    assert_eq!(kept(&file), SIZE - 3072 * 512);
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    let expected = pattern(SIZE as usize);
    let now = content(&file, 0, SIZE as usize);
    for (sector, bytes) in now.chunks(512).enumerate() {
        let hole = sector < 2048 || (4096..5120).contains(&sector);
        let whole = &expected[sector * 512..][..512];
        assert!(if hole {
            bytes == [0; 512]
        } else {
            bytes == whole
        });
    }
    works(&mut machine);
}

#[test]
fn zeroes_keep_their_blocks_unless_the_driver_gives_them_up() {
    const UNMAP: u32 = 1;
    let file = image();
    file.write_all_at(&pattern(SIZE as usize), 0).unwrap();
    let mut machine = machine(&file);
    let zero = VIRTIO_BLK_T_WRITE_ZEROES;
    assert_eq!(ranges(&mut machine, zero, &[(1, 2047, 0)]), OK);
    assert_eq!(kept(&file), SIZE);
    assert_eq!(ranges(&mut machine, zero, &[(2048, 2048, UNMAP)]), OK);
    assert_eq!(kept(&file), SIZE - 2048 * 512);
    let expected = pattern(SIZE as usize);
    let now = content(&file, 0, SIZE as usize);
    assert!(now[..512] == expected[..512]);
    assert!(now[512..4096 * 512].iter().all(|byte| *byte == 0));
    assert!(now[4096 * 512..] == expected[4096 * 512..]);
}

#[test]
fn zeroes_are_written_where_the_file_system_has_none() {
    // SAFETY: the name is a string; the descriptor returned is nobody else's.
    let file = unsafe {
        let fd = libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    };
    file.set_len(SIZE).unwrap();
    file.write_all_at(&pattern(SIZE as usize), 0).unwrap();
    let mut machine = machine(&file);
    let zero = VIRTIO_BLK_T_WRITE_ZEROES;
    assert_eq!(ranges(&mut machine, zero, &[(3, 300, 0)]), OK);
    let mut expected = pattern(SIZE as usize);
    expected[3 * 512..303 * 512].fill(0);
    assert!(content(&file, 0, SIZE as usize) == expected);
    assert_eq!(kept(&file), SIZE);
}

#[test]
fn queues_are_worked_on_side_by_side() {
    let file = image();
    let disk = Block::new(file.try_clone().unwrap(), "", 4).unwrap();
    let mut machine = Machine::new(disk);
    for queue in 0..4 {
        machine.write(DATA, &[queue as u8 + 1; 512]);
        let write = [(DATA, 512, false)];
        let kind = (VIRTIO_BLK_T_OUT, queue as u64);
        assert_eq!(request_on(&mut machine, queue, kind, &write), (OK, 1));
        wait_for("an interrupt", || {
            (machine.interrupt.signals(queue) > 0).then_some(())
        });
    }
    for queue in 0..4 {
        let expected = [queue as u8 + 1; 512];
        assert_eq!(content(&file, queue * 512, 512), expected);
    }
}

#[test]
fn events_that_nobody_waits_for_are_left_out() {
    let mut machine = machine(&image());
    accept(&mut machine, BASIC_FEATURES);
    works(&mut machine);
    wait_for("the first interrupt", || {
        (machine.interrupt.signals(0) == 1).then_some(())
    });
    // The driver still says that it waits for the first one.
    works(&mut machine);
    machine.device.reset();
    assert_eq!(machine.interrupt.signals(0), 1);
}

#[test]
fn a_disk_that_is_gone_leaves_nothing() {
    let file = image();
    let weak = {
        let mut machine = machine(&file);
        works(&mut machine);
        Arc::downgrade(&machine.device.disk)
    };
    assert!(weak.upgrade().is_none());
}

#[test]
fn what_was_left_when_the_device_stopped_is_done_when_it_goes_on() {
    let file = image();
    let mut machine = machine(&file);
    machine.device.reset();
    machine.write(HEADER, &[0; 16]);
    machine.queues[0].add(&[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    let activation = machine.activation();
    machine.device.activate(activation).unwrap();
    assert_eq!(machine.queues[0].used().1, 513);
}
