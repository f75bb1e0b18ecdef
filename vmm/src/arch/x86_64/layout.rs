//! The guest-physical address space.
//!
//! ```text
//! 0x0000_7000  zero page (struct boot_params)
//! 0x0000_8000  setup_data, GDT, command line
//! 0x0000_9000  boot page tables, 3 pages
//! 0x0009_fc00  MP table, 1 KiB (reserved in the e820 map)
//! 0x000a_0000  nothing, up to 1 MiB
//! 0x0010_0000  kernel, where its ELF headers say; initramfs at the end of low memory
//! 0xc000_0000  no memory up to 4 GiB: from 0xd000_0000 on the virtio-mmio devices, 4 KiB each,
//!              then I/O APIC, local APIC, KVM's TSS (under QEMU the devices are where its
//!              microvm machine has them, and its boot ROM is at the end)
//! 0x1_0000_0000  the rest of memory
//! ```

use vm_memory::GuestAddress;

/// The most vCPUs that a machine can have: the MP table has room for this many.
pub const MAX_VCPUS: u8 = 32;

/// ELF's `e_machine` of a kernel for this architecture (`EM_X86_64`).
pub(crate) const ELF_MACHINE: u16 = 62;
/// Kernel virtual addresses start here.
pub(crate) const KERNEL_SPACE: u64 = 0xffff_8000_0000_0000;
/// A kernel must end before this address: the boot page tables don't map more.
pub(crate) const KERNEL_LIMIT: u64 = IDENTITY_MAPPED;

/// The zero page (Documentation/arch/x86/zero-page.rst).
pub(crate) const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// The chain of `setup_data`.
pub(super) const SETUP_DATA: GuestAddress = GuestAddress(0x8000);
/// The GDT in effect when the kernel is entered.
pub(crate) const GDT: GuestAddress = GuestAddress(0x8100);
/// The kernel's command line.
pub(super) const CMDLINE: GuestAddress = GuestAddress(0x8800);
/// The longest command line, including its NUL (`COMMAND_LINE_SIZE` of x86).
pub(crate) const CMDLINE_CAPACITY: usize = 0x800;
/// Page tables: level 4, level 3, level 2, one page each.
pub(crate) const PML4: GuestAddress = GuestAddress(0x9000);
pub(super) const PDPT: GuestAddress = GuestAddress(0xa000);
pub(super) const PAGE_DIRECTORY: GuestAddress = GuestAddress(0xb000);
/// How much the boot page tables map, from address 0.
pub(super) const IDENTITY_MAPPED: u64 = 1 << 30;

/// The MP table: in the last KiB of base memory, where the MP specification says to look for it.
pub(super) const MP_TABLE: GuestAddress = GuestAddress(0x9_fc00);
/// The first MiB of a PC holds ROMs and video memory from here on.
pub(super) const LOW_MEMORY_END: u64 = 0xa_0000;
/// Memory proper starts here.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// The start of the hole below 4 GiB: the same as in QEMU's microvm machine.
pub(crate) const HOLE: u64 = 0xc000_0000;
/// Where memory continues above the hole.
pub(crate) const HOLE_END: u64 = 1 << 32;

/// The addresses of the I/O APIC and the local APICs, the same as of KVM's in-kernel ones.
pub(super) const IO_APIC: u32 = 0xfec0_0000;
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page for KVM's identity map and three for its TSS, which Intel processors without unrestricted
/// guest mode need. They are inside the hole, where the guest has no memory.
pub(super) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
pub(super) const KVM_TSS: usize = 0xfffb_d000;

/// Where the virtio-mmio devices are, one after the other.
pub(crate) const MMIO_START: u64 = 0xd000_0000;

/// The size of a virtio-mmio device's registers.
pub(crate) const MMIO_DEVICE_SIZE: u64 = 0x1000;
/// The devices' interrupts, in order: the pins of the I/O APIC that no device of a PC claims for
/// itself (0 is the timer's, 2 the cascade's, 4 the serial port's, 8 the clock's, 13 the FPU's).
pub(crate) const DEVICE_IRQS: [u32; 17] = [
    5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

const _: () = {
    assert!(CMDLINE.0 + CMDLINE_CAPACITY as u64 <= PML4.0);
    assert!(MMIO_START >= HOLE);
    assert!(MMIO_START + DEVICE_IRQS.len() as u64 * MMIO_DEVICE_SIZE <= IO_APIC as u64);
};

/// Returns the guest's memory of `size` bytes, as ranges of guest-physical addresses.
pub(crate) fn memory_ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(HOLE);
    let mut ranges = vec![(GuestAddress(0), low)];
    if size > low {
        ranges.push((GuestAddress(HOLE_END), size - low));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_leaves_the_hole_out() {
        assert_eq!(memory_ranges(64 << 20), [(GuestAddress(0), 64 << 20)]);
        assert_eq!(memory_ranges(HOLE), [(GuestAddress(0), HOLE)]);
        assert_eq!(
            memory_ranges(5 << 30),
            [
                (GuestAddress(0), HOLE),
                (GuestAddress(1 << 32), (5 << 30) - HOLE)
            ]
        );
    }
}
