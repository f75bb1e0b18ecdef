//! Tests a place that is filled while its driver is running, and a transport without a control
//! queue.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use virtio_queue::QueueT;

use super::namespace::{bring_up, in_namespace, index};
use super::*;
use crate::devices::virtio::net::NetSlot;

fn net(pairs: usize) -> Net {
    let tap = Tap::open("tap0", pairs).unwrap();
    bring_up("tap0", HOST);
    Net::new(tap, MAC, 1500).unwrap()
}

/// Waits for the answer to an ARP request.
fn answer(driver: &mut Driver<NetSlot>) {
    loop {
        let (_, frame) = driver.receive(RX);
        if frame[12..14] == [8, 6] && frame[20..22] == [0, 2] {
            return assert_eq!(frame[28..32], HOST.octets());
        }
    }
}

fn is_idle(driver: &mut Driver<NetSlot>) -> bool {
    driver.machine.queues[TX].notify();
    std::thread::sleep(std::time::Duration::from_millis(30));
    driver.machine.queues[TX].try_used().is_none()
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_place_works_once_it_is_filled_and_again_after_it_was_cleared() {
    in_namespace(|| {
        let slot = NetSlot::new(1);
        assert_eq!(slot.queue_sizes(), [256, 256]);
        let mut driver = Driver::new(slot.clone(), 0);
        for _ in 0..2 {
            driver.offer(RX, 50, 1526);
            driver.add(TX, SENT, Header::default(), &frames::arp_request());
            assert!(is_idle(&mut driver));
            assert!(slot.fill(net(1)).unwrap().is_none());
            driver.machine.queues[TX].used();
            answer(&mut driver);

            slot.clear();
            slot.clear();
            assert_eq!(index("tap0"), None);
            driver.add(TX, SENT, Header::default(), &frames::arp_request());
            assert!(is_idle(&mut driver));
            // The next device works for a driver that has started afresh.
            driver.machine.device.reset();
            driver.machine.activate();
            driver.offered.clear();
        }
        assert_eq!(driver.machine.interrupt.failure(), None);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_place_is_filled_once() {
    in_namespace(|| {
        let slot = NetSlot::new(1);
        assert!(slot.fill(net(1)).unwrap().is_none());
        let tap = Tap::open("tap1", 1).unwrap();
        let second = Net::new(tap, MAC, 1500).unwrap();
        assert!(slot.fill(second).unwrap().is_some());
        assert_eq!(index("tap1"), None);
        // Filled before there is a driver.
        let mut driver = Driver::new(slot, 0);
        driver.offer(RX, 50, 1526);
        driver.send(TX, Header::default(), &frames::arp_request());
        answer(&mut driver);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn what_a_place_offers_every_device_can_do() {
    in_namespace(|| {
        for pairs in [1, 3] {
            let (slot, net) = (NetSlot::new(pairs), net(pairs));
            assert_eq!(slot.features() & !net.features(), 0);
            assert_eq!(slot.queue_sizes(), net.queue_sizes());
        }
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn without_a_control_queue_the_pairs_that_are_set_up_are_used() {
    in_namespace(|| {
        // It talks to the host on its only pair: with several, the answer could come on any of
        // them.
        let mut guest = Guest::new(3, 0, 2048);
        guest.driver.machine.features |= feature(VIRTIO_NET_F_MQ);
        let socket = socket();
        for used in [2, 1, 2] {
            guest.driver.machine.device.reset();
            guest.driver.machine.activate();
            guest.driver.machine.device.reset();
            guest.driver.offered.clear();
            let mut activation = guest.driver.machine.activation();
            // The transport keeps the control queue.
            activation.queues.truncate(6);
            for queue in &mut activation.queues[2 * used..] {
                queue.queue.set_ready(false);
            }
            guest.driver.machine.device.activate(activation).unwrap();
            for pair in 0..used {
                guest.driver.offer(2 * pair, 50, 2048);
            }
            for pair in 0..used {
                let from = 5000 + pair as u16;
                let packet = frames::udp(from, port(&socket), b"there", true);
                guest.send(2 * pair + 1, Header::default(), &packet);
                let (_, sender) = socket.recv_from(&mut [0; 8]).unwrap();
                socket.send_to(b"back", sender).unwrap();
                assert_eq!(guest.receive(2 * pair).1.data(), b"back", "{used} {pair}");
            }
        }
        assert_eq!(guest.driver.machine.interrupt.failure(), None);
    });
}

/// An interrupt that is held up until it is released.
struct Held {
    came: mpsc::Sender<()>,
    let_go: Mutex<mpsc::Receiver<()>>,
}

impl Interrupt for Held {
    fn signal_used(&self, _index: u16) {
        let _ = self.came.send(());
        let _ = self.let_go.lock().unwrap().recv();
    }

    fn signal_config(&self) {}

    fn fail(&self, why: &str) {
        panic!("{why}");
    }
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_reset_waits_for_a_device_that_is_being_taken_away() {
    in_namespace(|| {
        let mut slot = NetSlot::new(1);
        let mut driver = Driver::new(slot.clone(), 0);
        driver.machine.device.reset();
        assert!(slot.fill(net(1)).unwrap().is_none());
        let ((came, has_come), (let_go, awaited)) = (mpsc::channel(), mpsc::channel());
        let let_go_later = Mutex::new(awaited);
        let mut activation = driver.machine.activation();
        activation.interrupt = Arc::new(Held {
            came,
            let_go: let_go_later,
        });
        driver.add(TX, SENT, Header::default(), &frames::arp_request());
        driver.machine.device.activate(activation).unwrap();
        has_come.recv_timeout(TIMEOUT).unwrap();

        let clearing = slot.clone();
        let clearing = std::thread::spawn(move || clearing.clear());
        wait_for("the device to be taken", || slot.is_being_changed());
        let (tell, was_reset) = mpsc::channel();
        let resetting = std::thread::spawn(move || {
            slot.reset();
            tell.send(()).unwrap();
        });
        let early = was_reset.recv_timeout(Duration::from_millis(100));
        assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
        drop(let_go);
        was_reset.recv_timeout(TIMEOUT).unwrap();
        clearing.join().unwrap();
        resetting.join().unwrap();
    });
}
