//! Tests several pairs of queues.

use super::namespace::in_namespace;
use super::*;

const CONTROL: usize = 4;
const FEATURES: u64 = 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_MQ;

fn command(guest: &mut Guest, bytes: &[u8]) -> u8 {
    const ANSWER: u64 = SENT + 0x800;
    let machine = &mut guest.driver.machine;
    machine.write(SENT, bytes);
    machine.write(ANSWER, &[9]);
    let parts = [(SENT, bytes.len() as u32, false), (ANSWER, 1, true)];
    assert_eq!(machine.queues[CONTROL].run(&parts), 1);
    machine.read(ANSWER, 1)[0]
}

fn use_pairs(guest: &mut Guest, count: u8) {
    assert_eq!(command(guest, &[4, 0, count, 0]), 0);
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_flow_comes_back_on_the_queue_that_it_goes_out_on() {
    in_namespace(|| {
        let mut guest = Guest::new(2, FEATURES, 2048);
        let (rx_2, tx_2) = (2, 3);
        use_pairs(&mut guest, 2);
        guest.driver.offer(rx_2, 100, 2048);
        let socket = socket();
        let mut bytes = [0; 100];
        for (queue, back) in [(TX, RX), (tx_2, rx_2), (TX, RX)] {
            let from = 5000 + queue as u16;
            let packet = frames::udp(from, port(&socket), b"there", true);
            guest.send(queue, Header::default(), &packet);
            let (count, sender) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!(&bytes[..count], b"there");
            assert_eq!(sender, (GUEST, from).into());
            socket.send_to(b"back", sender).unwrap();
            assert_eq!(guest.receive(back).1.data(), b"back");
        }
        // The flow of a pair that isn't used any more goes to one that is.
        use_pairs(&mut guest, 1);
        socket
            .send_to(b"again", (GUEST, 5000 + tx_2 as u16))
            .unwrap();
        assert_eq!(guest.receive(RX).1.data(), b"again");
        // And what is put into its queue stays there until it is used again.
        let packet = frames::udp(5003, port(&socket), b"later", true);
        let frame = frames::ethernet(guest.host_mac, &packet);
        guest
            .driver
            .add(tx_2, SENT + 0x1000, Header::default(), &frame);
        guest.driver.machine.queues[tx_2].notify();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(guest.driver.machine.queues[tx_2].try_used(), None);
        use_pairs(&mut guest, 2);
        guest.driver.machine.queues[tx_2].used();
        let (count, _) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"later");
        assert_eq!(guest.driver.machine.interrupt.failure(), None);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn queues_come_and_go_under_traffic() {
    in_namespace(|| {
        let mut guest = Guest::new(2, FEATURES, 2048);
        guest.driver.offer(2, 100, 2048);
        let socket = socket();
        for round in 0..200 {
            use_pairs(&mut guest, 1 + round % 2);
            socket.send_to(&[round], (GUEST, 6000)).unwrap();
        }
        assert_eq!(guest.driver.machine.interrupt.failure(), None);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn commands_that_are_not_known_are_refused() {
    in_namespace(|| {
        let mut guest = Guest::new(2, FEATURES, 2048);
        for bytes in [
            &[4, 0, 0, 0][..],
            &[4, 0, 3, 0],
            &[4, 0, 1, 1],
            &[4, 0, 0xff, 0xff],
            &[4, 1, 1, 0],
            &[0, 0, 1, 0],
            &[1, 0, 1, 0],
            &[4, 0, 1],
            &[4, 0],
            &[4],
            &[4, 0, 1, 0, 0],
        ] {
            assert_eq!(command(&mut guest, bytes), 1, "{bytes:?}");
        }
        assert_eq!(guest.driver.machine.interrupt.failure(), None);
        use_pairs(&mut guest, 2);
        // Which of two pairs a reply goes to is decided by a hash, whose key is another at each boot.
        use_pairs(&mut guest, 1);
        guest.meet();
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn without_several_pairs_the_control_queue_is_the_third() {
    in_namespace(|| {
        let mut guest = Guest::new(2, feature(VIRTIO_NET_F_CTRL_VQ), 2048);
        let machine = &mut guest.driver.machine;
        machine.write(SENT, &[4, 0, 1, 0]);
        let parts = [(SENT, 4, false), (SENT + 8, 1, true)];
        assert_eq!(machine.queues[2].run(&parts), 1);
        assert_eq!(machine.read(SENT + 8, 1), [0]);
        machine.write(SENT, &[4, 0, 2, 0]);
        machine.queues[2].run(&parts);
        assert_eq!(machine.read(SENT + 8, 1), [1]);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_reset_goes_back_to_one_pair() {
    in_namespace(|| {
        let mut guest = Guest::new(2, FEATURES, 2048);
        use_pairs(&mut guest, 2);
        let driver = &mut guest.driver;
        driver.machine.device.reset();
        driver.machine.activate();
        driver.offered.clear();
        driver.offer(RX, 50, 2048);
        guest.meet();
        let socket = socket();
        for from in 0..20 {
            let packet = frames::udp(7000 + from, port(&socket), b"x", true);
            guest.send(TX, Header::default(), &packet);
            let (_, sender) = socket.recv_from(&mut [0; 8]).unwrap();
            socket.send_to(b"y", sender).unwrap();
            assert_eq!(guest.receive(RX).1.data(), b"y");
        }
    });
}
