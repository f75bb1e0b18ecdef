use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;
use crate::devices::virtio::Interrupt;
use crate::devices::virtio::queue::BASIC_FEATURES;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::*;
use crate::devices::virtio::vhost_user::{Connection, Memory, Socket};
use crate::memory::{MIN_MEMORY, create};

/// A transport whose interrupt is an event.
struct Wire(EventFd);

impl Interrupt for Wire {
    fn signal_used(&self, _index: u16) {
        panic!("the device is elsewhere");
    }

    fn signal_config(&self) {}

    fn fail(&self, why: &str) {
        panic!("{why}");
    }

    fn used_event(&self) -> Option<&EventFd> {
        Some(&self.0)
    }
}

/// A device's two ends, and a driver.
struct Ends {
    device: RemoteDevice,
    memory: Arc<GuestMemoryMmap>,
    queue: DriverQueue,
    wire: Arc<Wire>,
    failure: Arc<Mutex<Option<String>>>,
}

fn connected(backend: impl FnOnce(UnixStream, Arc<Mutex<Option<String>>>)) -> Ends {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let failure = Arc::default();
    backend(theirs, Arc::clone(&failure));
    let memory = Arc::new(create(MIN_MEMORY).unwrap());
    let rng = Rng::new();
    let size = rng.queue_sizes()[0];
    Ends {
        device: RemoteDevice::new(rng.device_type(), rng.features(), &[size], &[], ours),
        queue: DriverQueue::new(&memory, 0, size),
        memory,
        wire: Arc::new(Wire(EventFd::new(EFD_NONBLOCK).unwrap())),
        failure,
    }
}

fn serve(socket: UnixStream, failure: Arc<Mutex<Option<String>>>) {
    let connection = Connection {
        name: "test",
        device: Box::new(Rng::new()),
        handed_over: 1,
        needed: 1,
        gives_config: false,
        socket: Socket::Connected(socket),
    };
    let (_never, peer) = UnixStream::pair().unwrap();
    let failed = move |why: &str| *failure.lock().unwrap() = Some(why.to_owned());
    let failed = Arc::new(failed);
    connection
        .serve(Memory::Shown, peer.into(), failed, || ())
        .unwrap();
}

impl Ends {
    fn activate(&mut self) -> Result<(), ActivateError> {
        self.device.activate(Activation {
            memory: Arc::clone(&self.memory),
            queues: vec![self.queue.active()],
            interrupt: Arc::clone(&self.wire) as Arc<dyn Interrupt>,
            features: BASIC_FEATURES & !(1 << 29),
        })
    }
}

#[test]
fn a_device_works_in_memory_that_it_is_shown() {
    let mut ends = connected(serve);
    for _ in 0..2 {
        ends.activate().unwrap();
        assert_eq!(ends.queue.run(&[(BUFFERS, 32, true)]), 32);
        wait_for("an interrupt", || ends.wire.0.read().ok());
        ends.device.reset();
        ends.queue.add(&[(BUFFERS, 32, true)]);
        ends.queue.notify();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(ends.queue.try_used(), None);
        // The driver starts afresh.
        let size = ends.device.queue_sizes()[0];
        ends.queue = DriverQueue::new(&ends.memory, 0, size);
    }
    assert_eq!(*ends.failure.lock().unwrap(), None);
}

#[test]
fn a_process_that_has_ended_is_an_error_and_holds_nothing_up() {
    let mut ends = connected(|socket, _| drop(socket));
    ends.activate().unwrap_err();
    ends.activate().unwrap_err();
    ends.device.reset();
    // It ends at work.
    let mut kept = None;
    let mut ends = connected(|socket, failure| {
        kept = Some(socket.try_clone().unwrap());
        serve(socket, failure);
    });
    ends.activate().unwrap();
    kept.unwrap().shutdown(std::net::Shutdown::Both).unwrap();
    ends.device.reset();
    ends.activate().unwrap_err();
}

#[test]
fn a_process_that_hangs_is_waited_for_with_a_limit() {
    let mut kept = None;
    let mut ends = connected(|socket, _| kept = Some(socket));
    let begin = Instant::now();
    ends.activate().unwrap_err();
    assert!(begin.elapsed() >= ANSWER_LIMIT && begin.elapsed() < TIMEOUT);
    ends.device.reset();
}

#[test]
fn another_transport_gets_the_socket() {
    let mut ends = connected(serve);
    assert!(ends.device.take_socket().is_some());
    assert!(ends.device.take_socket().is_none());
    ends.activate().unwrap_err();
}
