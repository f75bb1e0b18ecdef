//! Tests packets between a guest and the host.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use super::frames::{Segment, TCP, TRANSPORT, UDP};
use super::namespace::{delete, in_namespace, index, set_up};
use super::*;
use crate::devices::virtio::net::TapError;

const MERGE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const CHECKSUMS: u64 = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_GUEST_CSUM;
const TCP_SEGMENTS: u64 = 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_GUEST_TSO4;
const UDP_SEGMENTS: u64 =
    1 << VIRTIO_NET_F_HOST_USO | 1 << VIRTIO_NET_F_GUEST_USO4 | 1 << VIRTIO_NET_F_GUEST_USO6;

fn needs_udp_segments(guest: &Guest) {
    if guest.driver.machine.device.features() & UDP_SEGMENTS != UDP_SEGMENTS {
        panic!("skipped: this kernel doesn't leave datagrams together");
    }
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn configuration_and_features() {
    in_namespace(|| {
        let tap = Tap::open("tap0", 3).unwrap();
        assert_eq!(tap.name(), "tap0");
        let net = Net::new(tap, MAC, 1400).unwrap();
        assert_eq!(net.device_type(), 1);
        assert_eq!(net.queue_sizes(), [256, 256, 256, 256, 256, 256, 16]);
        let mut config = [9; 14];
        net.read_config(0, &mut config);
        assert_eq!(config[..6], MAC);
        // Status, pairs, MTU.
        assert_eq!(config[6..], [1, 0, 3, 0, 0x78, 5, 9, 9]);
        let bits = [0, 1, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 22];
        let expected = bits.iter().fold(0, |all, bit| all | 1 << bit);
        assert_eq!(net.features() & 0xff_ffff, expected);
        drop(net);
        let one = Net::new(Tap::open("tap0", 1).unwrap(), MAC, 68).unwrap();
        assert_eq!(one.queue_sizes(), [256, 256]);
        let several = feature(VIRTIO_NET_F_MQ) | feature(VIRTIO_NET_F_CTRL_VQ);
        assert_eq!(one.features() & several, 0);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn wrong_addresses_and_mtus_are_refused() {
    in_namespace(|| {
        for (mac, mtu) in [
            ([0; 6], 1500),
            ([0xff; 6], 1500),
            ([1, 0, 0, 0, 0, 1], 1500),
            (MAC, 67),
        ] {
            let refused = Net::new(Tap::open("tap0", 1).unwrap(), mac, mtu);
            let refused = refused.err().unwrap();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_tap_that_is_something_else_is_refused() {
    in_namespace(|| {
        let lo = Tap::open("lo", 1).err().unwrap();
        assert!(lo.to_string().contains("opening tap lo"), "{lo}");
        let first = Tap::open("tap0", 1).unwrap();
        assert!(matches!(
            Tap::open("tap0", 1),
            Err(TapError::Host {
                what: "opening",
                ..
            })
        ));
        assert!(Tap::open("tap0", 2).is_err());
        drop(first);
        assert!(Tap::open("tap0", 2).is_ok());
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn taps_that_are_made_have_names_of_their_own() {
    in_namespace(|| {
        let taps: Vec<Tap> = (0..3).map(|_| Tap::make("made-", 2).unwrap()).collect();
        let names: Vec<&str> = taps.iter().map(Tap::name).collect();
        assert_eq!(names, ["made-0", "made-1", "made-2"]);
        assert!(names.iter().all(|name| namespace::index(name).is_some()));
        assert!(Tap::make("a-name-with14b", 1).is_err());
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn packets_go_out_and_come_in() {
    in_namespace(|| {
        let mut guest = Guest::new(1, 0, 1526);
        let socket = socket();
        for length in [0, 1, 5, 1472] {
            let data = pattern(length);
            let packet = frames::udp(5000, port(&socket), &data, true);
            guest.send(TX, Header::default(), &packet);
            let mut bytes = [0; 2000];
            let (count, sender) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!(sender, (GUEST, 5000).into());
            assert_eq!(bytes[..count], data);

            socket.send_to(&data, sender).unwrap();
            let (header, frame) = guest.receive(RX);
            let expected = Header {
                buffers: 1,
                ..Header::default()
            };
            assert_eq!(header, expected);
            assert_eq!(frame.0[..6], MAC);
            assert_eq!((frame.protocol(), frame.ports().1), (UDP, 5000));
            assert_eq!(frame.data(), data);
            assert!(frame.is_complete());
        }
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn checksums_are_left_to_who_can_do_them() {
    in_namespace(|| {
        let mut guest = Guest::new(1, CHECKSUMS, 1526);
        let socket = socket();
        // The host checks this: a packet that claims to be complete and isn't doesn't arrive.
        let packet = frames::udp(5000, port(&socket), b"wrong", false);
        guest.send(TX, Header::default(), &packet);
        let header = Header {
            flags: 1,
            checksum_start: TRANSPORT as u16,
            checksum_offset: 6,
            ..Header::default()
        };
        let packet = frames::udp(5000, port(&socket), b"right", false);
        guest.send(TX, header, &packet);
        let mut bytes = [0; 100];
        let (count, sender) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"right");

        socket.send_to(b"back", sender).unwrap();
        let (header, frame) = guest.receive(RX);
        assert_eq!(header.flags, 1);
        assert_eq!(usize::from(header.checksum_start), TRANSPORT);
        assert_eq!(header.checksum_offset, 6);
        assert!(!frame.is_complete());
        assert_eq!(frame.data(), b"back");
    });
}

#[test]
#[ignore = "needs root, /dev/net/tun and Linux 6.2"]
fn datagrams_that_the_guest_leaves_together_are_segmented() {
    in_namespace(|| {
        let mut guest = Guest::new(1, CHECKSUMS | UDP_SEGMENTS, 1526);
        needs_udp_segments(&guest);
        let socket = socket();
        let data = pattern(50_500);
        let header = Header {
            flags: 1,
            gso_type: 5,
            header_length: 42,
            gso_size: 1000,
            checksum_start: TRANSPORT as u16,
            checksum_offset: 6,
            buffers: 0,
        };
        let packet = frames::udp(5000, port(&socket), &data, false);
        guest.send(TX, header, &packet);
        let mut bytes = [0; 2000];
        for piece in data.chunks(1000) {
            let count = socket.recv(&mut bytes).unwrap();
            assert!(bytes[..count] == *piece);
        }
    });
}

/// Has the host send `data` in datagrams of 1000 bytes, all at once.
fn send_together(socket: &UdpSocket, data: &[u8]) {
    const UDP_SEGMENT: i32 = 103;
    let size = 1000i32;
    // SAFETY: `size` is valid for the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<i32>() as u32,
        )
    };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
    socket.send_to(data, (GUEST, 5000)).unwrap();
}

#[test]
#[ignore = "needs root, /dev/net/tun and Linux 6.2"]
fn datagrams_come_together_for_a_guest_that_takes_them() {
    in_namespace(|| {
        let mut guest = Guest::new(1, CHECKSUMS | UDP_SEGMENTS | MERGE, 1526);
        needs_udp_segments(&guest);
        let data = pattern(20_000);
        send_together(&socket(), &data);
        let (header, frame) = guest.receive(RX);
        assert_eq!((header.gso_type, header.gso_size), (5, 1000));
        assert_eq!(header.buffers, (20_000u16 + 42 + 12).div_ceil(1526));
        assert!(frame.data() == data);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn datagrams_come_one_by_one_for_a_guest_that_does_not() {
    in_namespace(|| {
        let mut guest = Guest::new(1, MERGE, 1526);
        let data = pattern(20_000);
        send_together(&socket(), &data);
        for piece in data.chunks(1000) {
            let (header, frame) = guest.receive(RX);
            assert_eq!((header.flags, header.gso_type), (0, 0));
            assert!(frame.is_complete());
            assert!(frame.data() == piece);
        }
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn tcp_segments_go_together_both_ways() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const PSH: u8 = 8;
    in_namespace(|| {
        let mut guest = Guest::new(1, CHECKSUMS | TCP_SEGMENTS | MERGE, 1526);
        let socket = std::thread::spawn(|| TcpStream::connect((GUEST, 80)).unwrap());
        let tcp = |guest: &mut Guest| {
            loop {
                let (header, frame) = guest.receive(RX);
                if frame.protocol() == TCP {
                    return (header, frame);
                }
            }
        };
        let (_, syn) = tcp(&mut guest);
        let ports = (80, syn.ports().0);
        let mut received = syn.u32(TRANSPORT + 4).wrapping_add(1);
        let answer = Segment {
            ports,
            sequence: 1000,
            acknowledged: received,
            flags: SYN | ACK,
            options: &[2, 4, 5, 0xb4],
            data: &[],
        };
        guest.send(TX, Header::default(), &frames::tcp(&answer));
        let mut socket = socket.join().unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();

        // At first, the host sends ten segments at most.
        let data = pattern(12_000);
        socket.write_all(&data).unwrap();
        let mut got: Vec<u8> = Vec::new();
        let mut together = false;
        while got.len() < data.len() {
            let (header, frame) = tcp(&mut guest);
            if frame.data().is_empty() {
                continue;
            }
            if frame.data().len() > 1460 {
                assert_eq!((header.gso_type, header.gso_size), (1, 1460));
                assert_eq!(header.flags & 1, 1);
                together = true;
            }
            assert_eq!(frame.u32(TRANSPORT + 4), received);
            received = received.wrapping_add(frame.data().len() as u32);
            got.extend(frame.data());
        }
        assert!(got == data);
        assert!(together, "no two segments came together");

        let data = pattern(40_000);
        let segment = Segment {
            ports,
            sequence: 1001,
            acknowledged: received,
            flags: ACK | PSH,
            options: &[],
            data: &data,
        };
        let header = Header {
            flags: 1,
            gso_type: 1,
            header_length: 54,
            gso_size: 1460,
            checksum_start: TRANSPORT as u16,
            checksum_offset: 16,
            buffers: 0,
        };
        guest.send(TX, header, &frames::tcp(&segment));
        let mut got = vec![0; data.len()];
        socket.read_exact(&mut got).unwrap();
        assert!(got == data);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn an_interface_that_is_down_drops_and_comes_back() {
    in_namespace(|| {
        let mut guest = Guest::new(1, 0, 1526);
        set_up("tap0", false);
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..3 {
            let packet = frames::udp(5000, port(&socket), b"lost", true);
            guest.send(TX, Header::default(), &packet);
        }
        set_up("tap0", true);
        guest.meet();
        assert_eq!(guest.driver.machine.interrupt.failure(), None);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn an_interface_that_is_deleted_takes_the_link_down() {
    in_namespace(|| {
        let features = feature(VIRTIO_NET_F_CTRL_VQ) | feature(VIRTIO_NET_F_MQ);
        let mut guest = Guest::new(2, features, 1526);
        let status = |guest: &Guest| {
            let mut status = [9; 2];
            guest.driver.machine.device.read_config(6, &mut status);
            status
        };
        assert_eq!(status(&guest), [1, 0]);
        delete("tap0");
        wait_for("the link's end", || {
            (guest.driver.machine.interrupt.config_changes() == 1).then_some(())
        });
        assert_eq!(status(&guest), [0, 0]);
        // What is sent is dropped, before and after a reset.
        for _ in 0..2 {
            for number in 0..600 {
                guest.send(TX, Header::default(), &pattern(60 + number));
            }
            guest.driver.machine.device.reset();
            guest.driver.machine.activate();
        }
        assert_eq!(status(&guest), [0, 0]);
        assert_eq!(guest.driver.machine.interrupt.failure(), None);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_device_that_is_gone_leaves_no_interface() {
    in_namespace(|| {
        let guest = Guest::new(2, 0, 1526);
        assert!(index("tap0").is_some());
        drop(guest);
        assert_eq!(index("tap0"), None);
    });
}
