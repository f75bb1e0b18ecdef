//! Builds frames of the guest's, and parses those of the host.

use super::{GUEST, HOST, MAC};

const ETHERNET: usize = 14;
const IP: usize = 20;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Where a transport header begins in a frame.
pub(super) const TRANSPORT: usize = ETHERNET + IP;

pub(super) fn ethernet(to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&to[..], &MAC, &[8, 0], packet].concat()
}

pub(super) fn arp_request() -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
    let (guest, host) = (GUEST.octets(), HOST.octets());
    let parts: [&[u8]; 8] = [
        &[0xff; 6],
        &MAC,
        &[8, 6],
        &fixed,
        &MAC,
        &guest,
        &[0; 6],
        &host,
    ];
    parts.concat()
}

/// Builds an IPv4 packet from the guest to the host.
pub(super) fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (IP + payload.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(GUEST.octets());
    header.extend(HOST.octets());
    let checksum = !sum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header.extend(payload);
    header
}

/// Builds a datagram with its checksum, or with what an adapter needs to complete it.
pub(super) fn udp(from: u16, to: u16, data: &[u8], complete: bool) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(from.to_be_bytes());
    datagram.extend(to.to_be_bytes());
    datagram.extend(((8 + data.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    set_checksum(UDP, &mut datagram, 6, complete);
    ipv4(UDP, &datagram)
}

pub(super) struct Segment<'a> {
    pub(super) ports: (u16, u16),
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
    pub(super) options: &'a [u8],
    pub(super) data: &'a [u8],
}

/// Builds a TCP segment, to be completed if it has data.
pub(super) fn tcp(segment: &Segment<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(segment.ports.0.to_be_bytes());
    bytes.extend(segment.ports.1.to_be_bytes());
    bytes.extend(segment.sequence.to_be_bytes());
    bytes.extend(segment.acknowledged.to_be_bytes());
    let words = (20 + segment.options.len()) / 4;
    bytes.extend([(words as u8) << 4, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(segment.options);
    bytes.extend(segment.data);
    set_checksum(TCP, &mut bytes, 16, segment.data.is_empty());
    ipv4(TCP, &bytes)
}

fn set_checksum(protocol: u8, bytes: &mut [u8], at: usize, complete: bool) {
    let mut pseudo = pseudo_header(GUEST.octets(), HOST.octets(), protocol, bytes.len());
    let checksum = if complete {
        pseudo.extend_from_slice(bytes);
        !sum(&pseudo)
    } else {
        sum(&pseudo)
    };
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn pseudo_header(from: [u8; 4], to: [u8; 4], protocol: u8, length: usize) -> Vec<u8> {
    let [high, low] = (length as u16).to_be_bytes();
    [&from[..], &to, &[0, protocol, high, low]].concat()
}

/// Returns the one's complement sum of the 16-bit words.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An IPv4 frame without options, from the host.
pub(super) struct Frame(pub(super) Vec<u8>);

impl Frame {
    pub(super) fn protocol(&self) -> u8 {
        self.0[ETHERNET + 9]
    }

    pub(super) fn transport(&self) -> &[u8] {
        &self.0[TRANSPORT..]
    }

    /// Returns source and destination.
    pub(super) fn ports(&self) -> (u16, u16) {
        (self.u16(TRANSPORT), self.u16(TRANSPORT + 2))
    }

    pub(super) fn data(&self) -> &[u8] {
        let header = match self.protocol() {
            UDP => 8,
            _ => usize::from(self.transport()[12] >> 4) * 4,
        };
        &self.transport()[header..]
    }

    /// Returns whether the checksum is that of the whole packet.
    pub(super) fn is_complete(&self) -> bool {
        let bytes = self.transport();
        let addresses = (HOST.octets(), GUEST.octets());
        let mut all = pseudo_header(addresses.0, addresses.1, self.protocol(), bytes.len());
        all.extend(bytes);
        sum(&all) == 0xffff
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(*self.0[at..].first_chunk().unwrap())
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(*self.0[at..].first_chunk().unwrap())
    }
}
