//! The header before each packet (virtio 1.3, section 5.1.6): what remains to be done to the
//! packet.
//!
//! The tap has the same header, so the host's kernel acts on what the guest says. The kernel checks
//! that by itself; all the same, it gets only what the driver may ask for, from a copy that the
//! guest can't change.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
};

/// `struct virtio_net_hdr_v1`, in bytes.
pub(super) const SIZE: usize = 12;

/// The Ethernet header, and the longest packet with it: 64 KiB of IP and a VLAN tag.
const ETHERNET_HEADER: usize = 14;
pub(super) const MAX_PACKET: usize = ETHERNET_HEADER + 4 + 65535;

const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const GSO_NONE: u32 = VIRTIO_NET_HDR_GSO_NONE;
const GSO_ECN: u8 = VIRTIO_NET_HDR_GSO_ECN as u8;

/// The header.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u8,
    pub(super) gso_type: u8,
    /// The length of the headers in bytes, or a hint at it.
    pub(super) header_length: u16,
    /// Bytes of payload in each segment.
    pub(super) gso_size: u16,
    /// Where the checksummed part begins, and where in it the checksum is.
    pub(super) checksum_start: u16,
    pub(super) checksum_offset: u16,
    /// The number of chains that a received packet takes.
    pub(super) buffers: u16,
}

impl Header {
    pub(super) fn from_bytes(bytes: [u8; SIZE]) -> Header {
        let [flags, gso_type, rest @ ..] = bytes;
        let field = |at: usize| u16::from_le_bytes([rest[at], rest[at + 1]]);
        Header {
            flags,
            gso_type,
            header_length: field(0),
            gso_size: field(2),
            checksum_start: field(4),
            checksum_offset: field(6),
            buffers: field(8),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let fields = [
            self.header_length,
            self.gso_size,
            self.checksum_start,
            self.checksum_offset,
            self.buffers,
        ];
        for (to, field) in bytes[2..].chunks_exact_mut(2).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Returns the header that the host gets for a packet of `length` bytes, from a driver that
    /// accepted `features`. `None` if the packet makes no sense or asks for something that wasn't
    /// negotiated.
    pub(super) fn checked(self, length: usize, features: u64) -> Option<Header> {
        let accepted = |bit: u32| features & 1 << bit != 0;
        if !(ETHERNET_HEADER..=MAX_PACKET).contains(&length) {
            return None;
        }
        // Unknown flags are ignored (5.1.6.2.2), as is the number of buffers.
        let mut checked = Header {
            header_length: self
                .header_length
                .min(u16::try_from(length).unwrap_or(u16::MAX)),
            ..Header::default()
        };
        let needs_checksum = self.flags & NEEDS_CSUM != 0;
        if needs_checksum {
            let end = usize::from(self.checksum_start) + usize::from(self.checksum_offset) + 2;
            if !accepted(VIRTIO_NET_F_CSUM) || end > length {
                return None;
            }
            checked.flags = NEEDS_CSUM;
            checked.checksum_start = self.checksum_start;
            checked.checksum_offset = self.checksum_offset;
        }
        let ecn = self.gso_type & GSO_ECN != 0;
        let feature = match u32::from(self.gso_type & !GSO_ECN) {
            GSO_NONE if !ecn => return Some(checked),
            VIRTIO_NET_HDR_GSO_TCPV4 => VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_HDR_GSO_TCPV6 => VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_HDR_GSO_UDP_L4 if !ecn => VIRTIO_NET_F_HOST_USO,
            _ => return None,
        };
        let agreed = accepted(feature) && (!ecn || accepted(VIRTIO_NET_F_HOST_ECN));
        if !agreed || !needs_checksum || self.gso_size == 0 {
            return None;
        }
        checked.gso_type = self.gso_type;
        checked.gso_size = self.gso_size;
        Some(checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 1 << VIRTIO_NET_F_CSUM
        | 1 << VIRTIO_NET_F_HOST_TSO4
        | 1 << VIRTIO_NET_F_HOST_TSO6
        | 1 << VIRTIO_NET_F_HOST_ECN
        | 1 << VIRTIO_NET_F_HOST_USO;

    const SEGMENTED: Header = Header {
        flags: 1,
        gso_type: 1,
        header_length: 54,
        gso_size: 1460,
        checksum_start: 34,
        checksum_offset: 16,
        buffers: 0,
    };

    #[test]
    fn bytes_and_fields_are_the_same() {
        let bytes = [1, 4, 54, 0, 0xb4, 5, 34, 0, 16, 0, 2, 1];
        let header = Header {
            gso_type: 4,
            buffers: 0x102,
            ..SEGMENTED
        };
        assert_eq!(Header::from_bytes(bytes), header);
        assert_eq!(header.to_bytes(), bytes);
    }

    #[test]
    fn what_was_agreed_on_goes_through() {
        for gso_type in [1, 4, 5, 0x81, 0x84] {
            let header = Header {
                gso_type,
                ..SEGMENTED
            };
            assert_eq!(header.checked(5000, ALL), Some(header));
        }
        let checksum_only = Header {
            gso_type: 0,
            gso_size: 0,
            ..SEGMENTED
        };
        assert_eq!(checksum_only.checked(60, ALL), Some(checksum_only));
        for length in [14, MAX_PACKET] {
            let plain = Header::default();
            assert_eq!(plain.checked(length, 0), Some(plain));
        }
    }

    #[test]
    fn what_is_not_the_drivers_to_say_is_left_out() {
        let header = Header {
            flags: 0xfe,
            gso_type: 0,
            header_length: 9000,
            gso_size: 7,
            checksum_start: 60000,
            checksum_offset: 60000,
            buffers: 9,
        };
        let expected = Header {
            header_length: 60,
            ..Header::default()
        };
        assert_eq!(header.checked(60, ALL), Some(expected));
    }

    #[test]
    fn nonsense_and_what_was_not_agreed_on_is_refused() {
        let with = |change: fn(&mut Header)| {
            let mut header = SEGMENTED;
            change(&mut header);
            header
        };
        for (header, length) in [
            (SEGMENTED, 13),
            (SEGMENTED, 0),
            (SEGMENTED, MAX_PACKET + 1),
            // The checksum beyond the packet.
            (SEGMENTED, 51),
            (with(|h| h.checksum_start = u16::MAX), 5000),
            (with(|h| h.checksum_offset = u16::MAX), 5000),
            (with(|h| h.checksum_offset = 4965), 5000),
            // Segments without a checksum or a size, of no kind or of an obsolete one.
            (with(|h| h.flags = 0), 5000),
            (with(|h| h.gso_size = 0), 5000),
            (with(|h| h.gso_type = 2), 5000),
            (with(|h| h.gso_type = 3), 5000),
            (with(|h| h.gso_type = 6), 5000),
            (with(|h| h.gso_type = 0x41), 5000),
            (with(|h| h.gso_type = 0x80), 5000),
            (with(|h| h.gso_type = 0x85), 5000),
        ] {
            assert_eq!(header.checked(length, ALL), None, "{header:?}, {length}");
        }
        for (gso_type, bit) in [
            (0, VIRTIO_NET_F_CSUM),
            (1, VIRTIO_NET_F_CSUM),
            (1, VIRTIO_NET_F_HOST_TSO4),
            (4, VIRTIO_NET_F_HOST_TSO6),
            (5, VIRTIO_NET_F_HOST_USO),
            (0x81, VIRTIO_NET_F_HOST_ECN),
        ] {
            let header = Header {
                gso_type,
                ..SEGMENTED
            };
            assert_eq!(header.checked(5000, ALL & !(1 << bit)), None, "{header:?}");
        }
    }
}
