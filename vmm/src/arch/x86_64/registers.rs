//! The state in which a kernel is entered: long mode, with a GDT and an identity map, as the 64-bit
//! boot protocol requires (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout::{GDT, IDENTITY_MAPPED, PAGE_DIRECTORY, PDPT, PML4, ZERO_PAGE};

// Selectors that the boot protocol prescribes: __BOOT_CS and __BOOT_DS.
pub(crate) const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set. Interrupts are off.
const RFLAGS_RESERVED: u64 = 1 << 1;

const PRESENT_WRITABLE: u64 = 0x3;
const LARGE_PAGE: u64 = 1 << 7;
const LARGE_PAGE_SIZE: u64 = 2 << 20;

/// Writes the GDT and the page tables that [`long_mode`] points to.
pub(crate) fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let gdt = [
        0,
        0,
        descriptor(&code()),
        descriptor(&data()),
        descriptor(&task()),
    ];
    write_words(memory, GDT, &gdt)?;

    memory.write_obj(PDPT.raw_value() | PRESENT_WRITABLE, PML4)?;
    memory.write_obj(PAGE_DIRECTORY.raw_value() | PRESENT_WRITABLE, PDPT)?;
    let pages: Vec<u64> = (0..IDENTITY_MAPPED / LARGE_PAGE_SIZE)
        .map(|page| (page * LARGE_PAGE_SIZE) | LARGE_PAGE | PRESENT_WRITABLE)
        .collect();
    write_words(memory, PAGE_DIRECTORY, &pages)
}

fn write_words(
    memory: &GuestMemoryMmap,
    address: GuestAddress,
    words: &[u64],
) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write_slice(&bytes, address)
}

/// Puts `sregs`, as KVM returned it, into long mode.
pub(crate) fn long_mode(mut sregs: kvm_sregs) -> kvm_sregs {
    sregs.cs = code();
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data();
    }
    sregs.tr = task();
    sregs.gdt.base = GDT.raw_value();
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = PML4.raw_value();
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    sregs
}

/// Returns the registers at the kernel's `entry`: RSI holds the zero page's address.
pub(crate) fn at_entry(entry: GuestAddress) -> kvm_regs {
    kvm_regs {
        rip: entry.raw_value(),
        rsi: ZERO_PAGE.raw_value(),
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    }
}

fn segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// Execute and read, accessed, 64 bit.
fn code() -> kvm_segment {
    kvm_segment {
        l: 1,
        ..segment(CODE_SELECTOR, 0xb)
    }
}

/// Read and write, accessed.
fn data() -> kvm_segment {
    kvm_segment {
        db: 1,
        ..segment(DATA_SELECTOR, 0x3)
    }
}

/// A busy 64-bit TSS: entering a guest requires one; the kernel loads its own.
fn task() -> kvm_segment {
    kvm_segment {
        s: 0,
        ..segment(TASK_SELECTOR, 0xb)
    }
}

/// Returns a segment's descriptor (Intel SDM volume 3, section 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g == 1 {
        u64::from(segment.limit >> 12)
    } else {
        u64::from(segment.limit)
    };
    let flags = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7
        | u64::from(segment.avl) << 12
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | flags << 40
        | (limit >> 16 & 0xf) << 48
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
    }

    #[test]
    fn descriptors_are_the_ones_linux_uses_for_itself() {
        assert_eq!(descriptor(&code()), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&data()), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task()), 0x008f_8b00_0000_ffff);
    }

    #[test]
    fn page_tables_map_the_first_gib_to_itself() {
        let memory = memory();
        write_tables(&memory).unwrap();
        let word = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!(word(PML4.0), 0xa003);
        assert_eq!(word(PDPT.0), 0xb003);
        assert_eq!(word(PAGE_DIRECTORY.0), 0x83);
        assert_eq!(word(PAGE_DIRECTORY.0 + 8 * 8), 0x100_0083);
        assert_eq!(word(PAGE_DIRECTORY.0 + 511 * 8), 0x3fe0_0083);
        let selector = |selector: u16| word(GDT.0 + u64::from(selector));
        assert_eq!(selector(CODE_SELECTOR), descriptor(&code()));
        assert_eq!(selector(DATA_SELECTOR), descriptor(&data()));
    }

    #[test]
    fn the_kernel_is_entered_with_the_zero_page_in_rsi() {
        let regs = at_entry(GuestAddress(0x100_0000));
        assert_eq!((regs.rip, regs.rsi), (0x100_0000, 0x7000));
        assert_eq!(regs.rflags, 2);
    }
}
