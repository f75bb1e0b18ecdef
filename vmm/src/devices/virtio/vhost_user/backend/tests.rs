//! Tests a device driven over vhost-user, with a front end in place of QEMU.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, mpsc};

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{FileOffset, GuestMemory, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::devices::virtio::ActivateError;
use crate::devices::virtio::block::Block;
use crate::devices::virtio::queue::BASIC_FEATURES;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::*;
use crate::devices::virtio::vhost_user::{Connection, Memory, Socket};
use crate::devices::virtio::vsock::Vsock;

const FEATURES: u64 = BASIC_FEATURES & !(1 << VIRTIO_RING_F_EVENT_IDX);

/// Where QEMU has guest memory.
const THEIRS: u64 = 0x7f00_0000_0000;

/// Makes guest memory in a file, like a machine's.
fn guest_memory() -> Arc<GuestMemoryMmap> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY_SIZE as u64).unwrap();
    let range = (GuestAddress(0), MEMORY_SIZE, Some(FileOffset::new(file, 0)));
    Arc::new(GuestMemoryMmap::from_ranges_with_files([range]).unwrap())
}

/// Returns a descriptor of a process that never ends.
fn nobody() -> OwnedFd {
    descriptor(EventFd::new(EFD_NONBLOCK).unwrap())
}

fn descriptor(event: EventFd) -> OwnedFd {
    // SAFETY: the event gives its descriptor up.
    unsafe { OwnedFd::from_raw_fd(event.into_raw_fd()) }
}

/// A device, and QEMU's side of it.
struct Qemu {
    front: Frontend,
    memory: Arc<GuestMemoryMmap>,
    queues: Vec<DriverQueue>,
    calls: Vec<EventFd>,
    failure: Arc<Mutex<Option<String>>>,
    ended: mpsc::Receiver<()>,
}

impl Qemu {
    /// Connects to a device, and negotiates nothing except what its features are.
    fn connect(device: Box<dyn VirtioDevice>, handed_over: usize) -> Qemu {
        Qemu::connect_with(device, handed_over, handed_over, |_| ())
    }

    /// Does the same as [`connect`](Self::connect), for a device that needs fewer rings, after QEMU
    /// has sent something `early`.
    fn connect_with(
        device: Box<dyn VirtioDevice>,
        handed_over: usize,
        needed: usize,
        early: impl FnOnce(&UnixStream),
    ) -> Qemu {
        let memory = guest_memory();
        let sizes = device.queue_sizes().to_vec();
        let features = device.features();
        let queues = (0..handed_over).map(|i| DriverQueue::new(&memory, i, sizes[i]));
        let queues = queues.collect();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let failure = Arc::new(Mutex::new(None));
        let (tell, ended) = mpsc::channel();
        let record = Arc::clone(&failure);
        let failed = Arc::new(move |why: &str| *record.lock().unwrap() = Some(why.to_owned()));
        let connection = Connection {
            name: "test",
            device,
            handed_over,
            needed,
            gives_config: true,
            socket: Socket::Connected(ours),
        };
        connection
            .serve(
                Memory::Known(Arc::clone(&memory)),
                nobody(),
                failed,
                move || {
                    let _ = tell.send(());
                },
            )
            .unwrap();
        early(&theirs);
        let mut front = Frontend::from_stream(theirs, handed_over as u64);
        front.set_owner().unwrap();
        let offered = front.get_features().unwrap();
        assert_eq!(offered, features | PROTOCOL_FEATURES);
        let protocol = front.get_protocol_features().unwrap();
        front.set_protocol_features(protocol).unwrap();
        front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        Qemu {
            front,
            memory,
            queues,
            calls: (0..handed_over).map(|_| event()).collect(),
            failure,
            ended,
        }
    }

    /// Returns the memory table as QEMU sends it: all of memory except the ROMs in the first MiB.
    fn table(&self) -> Vec<VhostUserMemoryRegionInfo> {
        let size = MEMORY_SIZE as u64;
        [(0, 0xe_0000), (0x10_0000, size - 0x10_0000)]
            .map(|(start, length)| VhostUserMemoryRegionInfo {
                guest_phys_addr: start,
                memory_size: length,
                userspace_addr: THEIRS + start,
                mmap_offset: start,
                mmap_handle: self.file(),
            })
            .into()
    }

    fn file(&self) -> RawFd {
        let region = self.memory.iter().next().unwrap();
        region.file_offset().unwrap().file().as_raw_fd()
    }

    fn set_features_and_memory(&self) {
        self.front
            .set_features(FEATURES | PROTOCOL_FEATURES)
            .unwrap();
        self.front.set_mem_table(&self.table()).unwrap();
    }

    fn address(&self, index: usize) -> VringConfigData {
        let [descriptors, available, used] = self.queues[index].rings();
        VringConfigData {
            queue_max_size: 128,
            queue_size: 128,
            flags: 0,
            desc_table_addr: THEIRS + descriptors,
            used_ring_addr: THEIRS + used,
            avail_ring_addr: THEIRS + available,
            log_addr: None,
        }
    }

    /// Sets everything up and starts the device, as QEMU does at `DRIVER_OK`.
    fn start(&mut self, sizes: &[u16]) {
        self.set_features_and_memory();
        for (index, size) in sizes.iter().enumerate() {
            self.front.set_vring_num(index, *size).unwrap();
            self.front.set_vring_base(index, 0).unwrap();
            let address = self.address(index);
            self.front.set_vring_addr(index, &address).unwrap();
            let kick = self.queues[index].notification();
            self.front.set_vring_kick(index, kick).unwrap();
            self.front
                .set_vring_call(index, &self.calls[index])
                .unwrap();
        }
        for index in 0..sizes.len() {
            self.front.set_vring_enable(index, true).unwrap();
        }
    }

    /// Returns why the conversation ended.
    fn failure(self) -> String {
        self.ended.recv_timeout(TIMEOUT).unwrap();
        let failure = self.failure.lock().unwrap().take();
        failure.expect("the conversation ended without a failure")
    }
}

fn rng() -> Qemu {
    Qemu::connect(Box::new(Rng::new()), 1)
}

fn rng_size() -> u16 {
    Rng::new().queue_sizes()[0]
}

fn get_some(qemu: &mut Qemu) {
    let at = BUFFERS + 0x1_0000;
    qemu.memory.write_slice(&[0; 32], GuestAddress(at)).unwrap();
    assert_eq!(qemu.queues[0].run(&[(at, 32, true)]), 32);
    let mut bytes = [0; 32];
    qemu.memory
        .read_slice(&mut bytes, GuestAddress(at))
        .unwrap();
    assert_ne!(bytes, [0; 32]);
}

#[test]
fn a_device_works_and_interrupts() {
    let mut qemu = rng();
    qemu.start(&[rng_size()]);
    get_some(&mut qemu);
    wait_for("an interrupt", || qemu.calls[0].read().ok());
    // Another event from here on, as when QEMU unmasks an interrupt.
    let other = EventFd::new(EFD_NONBLOCK).unwrap();
    qemu.front.set_vring_call(0, &other).unwrap();
    get_some(&mut qemu);
    wait_for("an interrupt", || other.read().ok());
}

#[test]
fn a_device_is_stopped_and_started_again() {
    let mut qemu = rng();
    qemu.start(&[rng_size()]);
    get_some(&mut qemu);
    assert_eq!(qemu.front.get_vring_base(0).unwrap(), 1);
    qemu.queues[0].add(&[(BUFFERS, 32, true)]);
    qemu.queues[0].notify();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(qemu.queues[0].try_used(), None);
    // The driver starts afresh.
    qemu.queues[0] = DriverQueue::new(&qemu.memory, 0, rng_size());
    qemu.front.set_vring_enable(0, false).unwrap();
    qemu.start(&[rng_size()]);
    get_some(&mut qemu);
}

#[test]
fn a_ring_goes_on_where_it_stopped() {
    let mut qemu = rng();
    qemu.start(&[rng_size()]);
    get_some(&mut qemu);
    let base = qemu.front.get_vring_base(0).unwrap();
    qemu.front.set_vring_base(0, base as u16).unwrap();
    let kick = qemu.queues[0].notification();
    qemu.front.set_vring_kick(0, kick).unwrap();
    get_some(&mut qemu);
}

/// A device with two pairs of queues that answers nothing, and reports which of them it was given,
/// and at which position.
struct Pairs(mpsc::Sender<Option<Vec<Option<u16>>>>);

impl VirtioDevice for Pairs {
    fn device_type(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        BASIC_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[128; 5]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> std::result::Result<(), ActivateError> {
        let queues = activation.queues.iter().map(|active| &active.queue);
        let given = queues.map(|queue| queue.ready().then(|| queue.next_avail()));
        self.0.send(Some(given.collect())).unwrap();
        Ok(())
    }

    fn reset(&mut self) {
        let _ = self.0.send(None);
    }
}

/// Sets a ring of size 128 up and starts it.
fn set_up(qemu: &mut Qemu, index: usize) {
    qemu.front.set_vring_num(index, 128).unwrap();
    qemu.front.set_vring_base(index, 0).unwrap();
    let address = qemu.address(index);
    qemu.front.set_vring_addr(index, &address).unwrap();
    let kick = qemu.queues[index].notification();
    qemu.front.set_vring_kick(index, kick).unwrap();
}

/// Sends the request that enables a ring, the way QEMU's network devices begin: before features are
/// negotiated. Newer versions want an answer.
fn enable_early(mut theirs: &UnixStream) {
    theirs.set_read_timeout(Some(TIMEOUT)).unwrap();
    for (index, flags) in [(0, 1), (1, 9)] {
        let request = [18, flags, 8, index, 1].map(u32::to_ne_bytes);
        theirs.write_all(request.as_flattened()).unwrap();
    }
    let mut answer = [[0; 4]; 5];
    theirs.read_exact(answer.as_flattened_mut()).unwrap();
    assert_eq!(answer.map(u32::from_ne_bytes), [18, 5, 8, 0, 0]);
    theirs.set_read_timeout(None).unwrap();
}

#[test]
fn pairs_of_rings_come_and_go() {
    let (tell, told) = mpsc::channel();
    let next = || told.recv_timeout(TIMEOUT).unwrap();
    let device = Box::new(Pairs(tell));
    let mut qemu = Qemu::connect_with(device, 4, 2, enable_early);
    assert_eq!(qemu.front.get_queue_num().unwrap(), 4);
    qemu.set_features_and_memory();
    for index in [0, 1] {
        assert!(told.try_recv().is_err());
        set_up(&mut qemu, index);
    }
    assert_eq!(next(), Some(vec![Some(0), Some(0), None, None]));

    // QEMU sends the features for each pair. A ring that isn't enabled changes nothing.
    let features = FEATURES | PROTOCOL_FEATURES;
    qemu.front.set_features(features).unwrap();
    for index in [2, 3] {
        set_up(&mut qemu, index);
    }
    // The other rings continue where the device has stopped, as a ring's index says.
    let [_, _, used] = qemu.queues[0].rings();
    let index = GuestAddress(used + 2);
    qemu.memory.write_obj(7u16, index).unwrap();
    qemu.front.set_vring_enable(2, true).unwrap();
    qemu.front.set_vring_enable(2, true).unwrap();
    qemu.front.set_vring_enable(3, true).unwrap();
    let last = std::iter::from_fn(|| told.recv_timeout(TIMEOUT).ok())
        .find(|given| matches!(given, Some(given) if given[3].is_some()));
    assert_eq!(last, Some(Some(vec![Some(7), Some(0), Some(0), Some(0)])));

    qemu.front.set_vring_enable(3, false).unwrap();
    assert_eq!(next(), None);
    assert_eq!(next(), Some(vec![Some(7), Some(0), Some(0), None]));
    // Without its first pair it doesn't work.
    assert_eq!(qemu.front.get_vring_base(0).unwrap(), 7);
    assert_eq!(next(), None);
    qemu.front.set_vring_enable(3, true).unwrap();
    assert!(told.try_recv().is_err());
    assert_eq!(*qemu.failure.lock().unwrap(), None);
}

#[test]
fn other_features_at_work_end_the_conversation() {
    let mut qemu = rng();
    qemu.start(&[rng_size()]);
    let features = BASIC_FEATURES | PROTOCOL_FEATURES;
    let _ = qemu.front.set_features(features);
    assert!(qemu.failure().contains("other features"));
}

#[test]
fn a_ring_that_is_not_there_is_not_enabled_early() {
    let memory = guest_memory();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (tell, ended) = mpsc::channel();
    let failed = Arc::new(move |why: &str| {
        let _ = tell.send(why.to_owned());
    });
    let connection = Connection {
        name: "test",
        device: Box::new(Rng::new()),
        handed_over: 1,
        needed: 1,
        gives_config: false,
        socket: Socket::Connected(ours),
    };
    let memory = Memory::Known(memory);
    connection.serve(memory, nobody(), failed, || ()).unwrap();
    let request = [18, 9, 8, 1, 1].map(u32::to_ne_bytes);
    theirs.write_all(request.as_flattened()).unwrap();
    let mut answer = [[0; 4]; 5];
    theirs.read_exact(answer.as_flattened_mut()).unwrap();
    assert_eq!(answer.map(u32::from_ne_bytes), [18, 5, 8, 1, 0]);
    let why = ended.recv_timeout(TIMEOUT).unwrap();
    assert!(why.contains("vhost-user protocol"), "{why}");
}

/// The device waits on a listening socket for as long as a peer may connect.
#[test]
fn a_peer_that_ends_before_it_connects_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    let peer = EventFd::new(EFD_NONBLOCK).unwrap();
    let watched = descriptor(peer.try_clone().unwrap());
    let (tell, ended) = mpsc::channel();
    let connection = Connection {
        name: "test",
        device: Box::new(Rng::new()),
        handed_over: 1,
        needed: 1,
        gives_config: false,
        socket: Socket::Listening(listener),
    };
    let failed = Arc::new(|why: &str| panic!("{why}"));
    connection
        .serve(Memory::Known(guest_memory()), watched, failed, move || {
            tell.send(()).unwrap()
        })
        .unwrap();
    assert!(ended.try_recv().is_err());
    peer.write(1).unwrap();
    ended.recv_timeout(TIMEOUT).unwrap();
}

#[test]
fn the_end_of_qemu_is_no_failure_and_stops_the_device() {
    let mut qemu = rng();
    qemu.start(&[rng_size()]);
    get_some(&mut qemu);
    drop(qemu.front);
    qemu.ended.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(*qemu.failure.lock().unwrap(), None);
    qemu.queues[0].add(&[(BUFFERS, 32, true)]);
    qemu.queues[0].notify();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(qemu.queues[0].try_used(), None);
}

#[test]
fn the_configuration_space_is_read() {
    let (vsock, _ports) = Vsock::new(7).unwrap();
    let mut qemu = Qemu::connect(Box::new(vsock), 2);
    assert_eq!(qemu.front.get_queue_num().unwrap(), 2);
    let flags = VhostUserConfigFlags::WRITABLE;
    let (_, cid) = qemu.front.get_config(0, 8, flags, &[0; 8]).unwrap();
    assert_eq!(cid, 7u64.to_le_bytes());
    // Without the queue that QEMU keeps.
    qemu.start(&[128, 128]);
    assert_eq!(*qemu.failure.lock().unwrap(), None);
}

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

#[test]
fn a_broken_ring_is_reported() {
    for (what, break_it) in BREAKAGES {
        let mut qemu = rng();
        qemu.start(&[rng_size()]);
        break_it(&mut qemu.queues[0]);
        qemu.queues[0].notify();
        wait_for(what, || qemu.failure.lock().unwrap().take());
        // A device that has stopped can still be taken away.
        qemu.front.get_vring_base(0).unwrap();
    }
}

/// Each thing that a QEMU that was taken over may send goes to a fresh device: the conversation
/// ends with a reason.
#[test]
fn what_qemu_must_not_say_ends_the_conversation() {
    type Lie = (&'static str, &'static str, fn(&mut Qemu));
    let lies: &[Lie] = &[
        ("another file's memory", "isn't the machine's", |qemu| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(MEMORY_SIZE as u64).unwrap();
            let mut table = qemu.table();
            table[1].mmap_handle = file.as_raw_fd();
            let _ = qemu.front.set_mem_table(&table);
        }),
        (
            "memory beyond the machine's",
            "isn't the machine's",
            |qemu| {
                let mut table = qemu.table();
                table[1].memory_size += 4096;
                let _ = qemu.front.set_mem_table(&table);
            },
        ),
        ("memory at another place", "isn't the machine's", |qemu| {
            let mut table = qemu.table();
            table[1].guest_phys_addr += 4096;
            table[1].memory_size -= 4096;
            let _ = qemu.front.set_mem_table(&table);
        }),
        ("memory that wraps around", "invalid message", |qemu| {
            let mut table = qemu.table();
            table[0].userspace_addr = u64::MAX - 0x1000;
            let _ = qemu.front.set_mem_table(&table);
        }),
        (
            "a ring outside of the table",
            "isn't in the memory table",
            |qemu| {
                let mut address = qemu.address(0);
                address.used_ring_addr = THEIRS + 0xe_0000;
                let _ = qemu.front.set_vring_addr(0, &address);
            },
        ),
        (
            "a ring before the table",
            "isn't in the memory table",
            |qemu| {
                let mut address = qemu.address(0);
                address.desc_table_addr = THEIRS - 16;
                let _ = qemu.front.set_vring_addr(0, &address);
            },
        ),
        (
            "a ring that leaves memory",
            "isn't in guest memory",
            |qemu| {
                let mut address = qemu.address(0);
                address.used_ring_addr = THEIRS + MEMORY_SIZE as u64 - 4;
                qemu.front.set_vring_num(0, 8).unwrap();
                qemu.front.set_vring_addr(0, &address).unwrap();
                let kick = qemu.queues[0].notification();
                qemu.front.set_vring_kick(0, kick).unwrap();
                let _ = qemu.front.set_vring_enable(0, true);
            },
        ),
        (
            "a size that is no power of two",
            "a size that isn't offered",
            |qemu| {
                let _ = qemu.front.set_vring_num(0, 100);
            },
        ),
        (
            "a size above the largest",
            "a size that isn't offered",
            |qemu| {
                let _ = qemu.front.set_vring_num(0, 2048);
            },
        ),
        ("an event that is a file", "isn't an event", |qemu| {
            // SAFETY: the descriptor is a new file's, and nobody else's.
            let file = unsafe {
                use std::os::fd::{FromRawFd, IntoRawFd};
                EventFd::from_raw_fd(tempfile::tempfile().unwrap().into_raw_fd())
            };
            let _ = qemu.front.set_vring_kick(0, &file);
        }),
        ("features that aren't offered", "doesn't offer", |qemu| {
            let _ = qemu
                .front
                .set_features(FEATURES | PROTOCOL_FEATURES | 1 << 40);
        }),
        ("a change of a ring at work", "can't be changed", |qemu| {
            qemu.start(&[rng_size()]);
            let address = qemu.address(0);
            let _ = qemu.front.set_vring_addr(0, &address);
        }),
    ];
    for (what, expected, say) in lies {
        let mut qemu = rng();
        qemu.set_features_and_memory();
        say(&mut qemu);
        let failure = qemu.failure();
        assert!(failure.contains(expected), "{what}: {failure}");
    }
}

#[test]
fn a_ring_before_its_features_is_refused() {
    let qemu = rng();
    let address = qemu.address(0);
    assert!(qemu.front.set_vring_addr(0, &address).is_err());
    assert!(qemu.failure().contains("isn't in the memory table"));
}

#[test]
fn noise_ends_the_conversation() {
    let memory = guest_memory();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (tell, ended) = mpsc::channel();
    let failed = Arc::new(move |why: &str| {
        let _ = tell.send(why.to_owned());
    });
    let connection = Connection {
        name: "test",
        device: Box::new(Rng::new()),
        handed_over: 1,
        needed: 1,
        gives_config: false,
        socket: Socket::Connected(ours),
    };
    let memory = Memory::Known(memory);
    connection.serve(memory, nobody(), failed, || ()).unwrap();
    let (seed, mut bytes) = (fuzz_seed(), [0; 4096]);
    // Shown if the test fails.
    println!("{FUZZ_SEED}={seed}");
    noise(seed, &mut bytes);
    // No request has this number.
    bytes[..4].copy_from_slice(&0xffffu32.to_le_bytes());
    theirs.write_all(&bytes).unwrap();
    let why = ended.recv_timeout(TIMEOUT).unwrap();
    assert!(why.contains("vhost-user protocol"), "{why}");
}
