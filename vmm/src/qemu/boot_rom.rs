//! The machine's firmware: it enters the kernel, which is already in memory.
//!
//! QEMU starts a processor as a PC does, in real mode, at the end of a ROM. Kernel, initramfs, boot
//! parameters, GDT and page tables are where the KVM monitor would have put them, so all that
//! remains is to enter long mode. That takes two dozen instructions, and no BIOS.

use vm_memory::GuestAddress;

use crate::arch::{GDT, PML4, ZERO_PAGE};

/// The smallest size that QEMU accepts for a ROM. Its last 64 KiB also appear from 0xf0000 on.
const SIZE: usize = 64 << 10;

/// Where a processor starts, just before the end of the ROM.
const RESET_VECTOR: usize = SIZE - 16;

/// `jmp far 0xf000:0`: to the ROM's beginning, in the first MiB.
const TO_START: [u8; 5] = [0xea, 0x00, 0x00, 0x00, 0xf0];

// Loaded at 0xf0000; ends with the kernel's entry point, which is filled in. PE and PG are set at
// the same time: nothing of protected mode without paging is needed.
core::arch::global_asm!(
    ".pushsection .rodata.nacre_boot_rom, \"a\", @progbits",
    ".code16",
    "nacre_boot_rom:",
    "cli",
    "movl $0x20, %eax", // PAE
    "movl %eax, %cr4",
    "movl ${pml4}, %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx", // EFER
    "movl $0x100, %eax",      // LME
    "xorl %edx, %edx",
    "wrmsr",
    "lgdtl %cs:(nacre_boot_rom_gdt - nacre_boot_rom)",
    "movl $0x80000011, %eax", // PG, ET, PE
    "movl %eax, %cr0",
    "ljmpl $0x10, $(0xf0000 + nacre_boot_rom_64 - nacre_boot_rom)",
    ".code64",
    "nacre_boot_rom_64:",
    "movl $0x18, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "movl ${zero_page}, %esi",
    "movq nacre_boot_rom_entry(%rip), %rax",
    "jmp *%rax",
    "nacre_boot_rom_gdt:",
    ".word 5 * 8 - 1",
    ".long {gdt}",
    "nacre_boot_rom_entry:",
    ".quad 0",
    "nacre_boot_rom_end:",
    ".popsection",
    pml4 = const PML4.0,
    gdt = const GDT.0,
    zero_page = const ZERO_PAGE.0,
    options(att_syntax),
);

/// Returns the ROM for a kernel with the entry point `entry`.
pub(super) fn image(entry: GuestAddress) -> Vec<u8> {
    unsafe extern "C" {
        #[link_name = "nacre_boot_rom"]
        static START: u8;
        #[link_name = "nacre_boot_rom_end"]
        static END: u8;
    }
    let (start, end) = (&raw const START, &raw const END);
    // SAFETY: the symbols enclose the code in a read-only section of this program.
    let code = unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) };
    let mut rom = vec![0; SIZE];
    let entry = entry.0.to_le_bytes();
    let filled = code.len() - entry.len();
    rom[..filled].copy_from_slice(&code[..filled]);
    rom[filled..code.len()].copy_from_slice(&entry);
    rom[RESET_VECTOR..][..TO_START.len()].copy_from_slice(&TO_START);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_point_is_filled_in_behind_the_code() {
        let rom = image(GuestAddress(0x1122_3344_5566));
        assert_eq!(rom.len(), SIZE);
        let entry = 0x1122_3344_5566u64.to_le_bytes();
        let at = rom.windows(8).position(|bytes| bytes == entry).unwrap();
        assert!(at > 50 && at < 256);
        assert!(rom[at + 8..RESET_VECTOR].iter().all(|&byte| byte == 0));
        assert_eq!(rom[0], 0xfa, "cli");
        assert_eq!(rom[RESET_VECTOR], 0xea);
    }
}
