//! A device's registers, as a driver writes and reads them in any order.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::script::Script;
use crate::devices::virtio::mmio::MmioTransport;
use crate::devices::virtio::rng::Rng;

const MEMORY_SIZE: usize = 1 << 20;

/// What a guest does to a device's registers.
pub fn registers(script: &[u8]) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)]);
    let memory = Arc::new(memory.expect("there is memory"));
    let transport = MmioTransport::new(Box::new(Rng::new()), memory);
    let mut transport = transport.expect("there are events");
    let mut script = Script::new(script);
    while !script.is_over() {
        let kind = script.byte();
        let offset = match kind & 3 {
            0 => u64::from(script.byte()),
            1 => u64::from(script.byte()) << 2,
            2 => u64::from(script.half()),
            _ => script.long(),
        };
        let length = match kind >> 2 & 3 {
            0 => usize::from(script.byte() & 15),
            _ => 4,
        };
        if kind & 0x80 == 0 {
            transport.write(offset, script.bytes(length));
        } else {
            transport.read(offset, &mut vec![0; length]);
        }
    }
    transport.reset();
}
