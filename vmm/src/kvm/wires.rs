//! Connects a device's notifications and interrupts to KVM.

use kvm_ioctls::{IoEventAddress, VmFd};
use vm_memory::{Address, GuestAddress};

use crate::arch::{self, DEVICE_IRQS, MMIO_DEVICE_SIZE};
use crate::devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};

/// Returns the address and size of the registers of device `index`, which is below [`MAX_DEVICES`](crate::MAX_DEVICES),
/// and its interrupt.
pub(super) fn place(index: usize) -> (GuestAddress, u64, u32) {
    let offset = index as u64 * MMIO_DEVICE_SIZE;
    (
        GuestAddress(arch::MMIO_START + offset),
        MMIO_DEVICE_SIZE,
        DEVICE_IRQS[index],
    )
}

/// Has KVM deliver a device's notifications and interrupts.
pub(super) fn connect(
    vm: &VmFd,
    index: usize,
    transport: &MmioTransport,
) -> Result<(), kvm_ioctls::Error> {
    let (notify, irq) = wires(index);
    for (queue, event) in transport.notify_events().enumerate() {
        vm.register_ioevent(event, &notify, queue as u32)?;
    }
    vm.register_irqfd(transport.irq(), irq)
}

/// Undoes [`connect`], or the part of it that was done before it failed.
pub(super) fn disconnect(vm: &VmFd, index: usize, transport: &MmioTransport) {
    let (notify, irq) = wires(index);
    // KVM refuses only what isn't connected.
    for (queue, event) in transport.notify_events().enumerate() {
        let _ = vm.unregister_ioevent(event, &notify, queue as u32);
    }
    let _ = vm.unregister_irqfd(transport.irq(), irq);
}

/// Returns where device `index` is notified, and its interrupt.
fn wires(index: usize) -> (IoEventAddress, u32) {
    let (address, _, irq) = place(index);
    (
        IoEventAddress::Mmio(address.raw_value() + QUEUE_NOTIFY),
        irq,
    )
}
