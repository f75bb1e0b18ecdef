//! Tests a device driven over vhost-user, with a front end in place of QEMU.

mod disk;
mod hostile;
mod pairs;

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, mpsc};

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{FileOffset, GuestMemory, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
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
