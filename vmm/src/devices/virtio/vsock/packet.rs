//! Packets (virtio 1.3, section 5.10.6): reads and writes the fields of a header, with
//! `virtio-vsock`.
//!
//! That crate's own parsing of descriptor chains isn't used: it requires a packet's data in one
//! descriptor, while Linux may use one per page. And a header in guest memory can change while it
//! is being read, so it is copied first.

use virtio_vsock::packet::{PKT_HEADER_SIZE, VsockPacket};

use crate::devices::virtio::buffers::Buffers;

/// The host's context id (virtio 1.3, section 5.10.4).
pub const HOST_CID: u64 = 2;

/// The size of a packet's header in bytes.
pub(super) const HEADER_SIZE: usize = PKT_HEADER_SIZE;

/// `VIRTIO_VSOCK_TYPE_STREAM`
pub(super) const TYPE_STREAM: u16 = 1;

/// In a SHUTDOWN: the sender will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// In a SHUTDOWN: the sender will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// In a SHUTDOWN: both.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// A packet's operation (`VIRTIO_VSOCK_OP_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Operation {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Operation {
    fn from_wire(value: u16) -> Option<Operation> {
        use Operation::*;
        [
            Request,
            Response,
            Reset,
            Shutdown,
            Data,
            CreditUpdate,
            CreditRequest,
        ]
        .into_iter()
        .find(|operation| *operation as u16 == value)
    }
}

/// A header; `operation` is `None` for one that isn't in the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) operation: Option<Operation>,
    pub(super) flags: u32,
    pub(super) buffer_size: u32,
    pub(super) forwarded: u32,
}

impl Header {
    /// Takes a header off the front of a packet, if there is a whole one.
    pub(super) fn read(packet: &mut Buffers<'_>) -> Option<Header> {
        let mut bytes = [0; HEADER_SIZE];
        if packet.read(&mut bytes) < HEADER_SIZE {
            return None;
        }
        let mut copy = bytes;
        // SAFETY: the packet is used only while `copy` lives.
        let mut fields = unsafe { VsockPacket::new(&mut copy, None) }.ok()?;
        fields.set_header_from_raw(&bytes).ok()?;
        Some(Header {
            source_cid: fields.src_cid(),
            destination_cid: fields.dst_cid(),
            source_port: fields.src_port(),
            destination_port: fields.dst_port(),
            length: fields.len(),
            kind: fields.type_(),
            operation: Operation::from_wire(fields.op()),
            flags: fields.flags(),
            buffer_size: fields.buf_alloc(),
            forwarded: fields.fwd_cnt(),
        })
    }

    /// Returns the header as it is in memory.
    pub(super) fn bytes(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        // SAFETY: the packet is used only while `bytes` lives.
        if let Ok(mut fields) = unsafe { VsockPacket::new(&mut bytes, None) } {
            fields
                .set_src_cid(self.source_cid)
                .set_dst_cid(self.destination_cid)
                .set_src_port(self.source_port)
                .set_dst_port(self.destination_port)
                .set_len(self.length)
                .set_type(self.kind)
                .set_op(self.operation.map_or(0, |operation| operation as u16))
                .set_flags(self.flags)
                .set_buf_alloc(self.buffer_size)
                .set_fwd_cnt(self.forwarded);
        }
        bytes
    }
}
