//! Kernels of a handful of instructions, for tests.

use std::fs::File;
use std::io::Write;

use crate::{Hypervisor, MIN_MEMORY, VmConfig};

/// Defines a kernel: a function with that name returns its code. It is entered in long mode with
/// the first GiB mapped, and has no stack. It must not use `int3`, nor anything that an emulator
/// might not know.
macro_rules! kernel {
    ($name:ident: $($line:literal)*) => {
        core::arch::global_asm!(
            ".pushsection .rodata.nacre_test_kernels, \"a\", @progbits",
            concat!("nacre_test_", stringify!($name), ":"),
            $($line,)*
            concat!("nacre_test_", stringify!($name), "_end:"),
            ".popsection",
        );

        pub(crate) fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("nacre_test_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("nacre_test_", stringify!($name), "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: the symbols enclose the code in a read-only section of this program.
            unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
        }
    };
}
pub(crate) use kernel;

kernel!(power_off: "mov edx, 0x600" "mov al, 0x34" "out dx, al" "2: hlt" "jmp 2b");
kernel!(reset: "mov al, 0xfe" "out 0x64, al" "2: hlt" "jmp 2b");
kernel!(halt: "2: hlt" "jmp 2b");
kernel!(spin: "2: jmp 2b");
kernel!(triple_fault: "ud2");
kernel!(hello:
    "mov edx, 0x3f8"
    "mov al, 'h'" "out dx, al"
    "mov al, 'i'" "out dx, al"
    "mov al, 10" "out dx, al"
    "ud2"
);

/// Builds an ELF vmlinux with one segment.
pub(crate) fn vmlinux(code: &[u8]) -> File {
    let (entry, offset, len) = (0x100_0000u64, 120u64, code.len() as u64);
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [entry, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [offset, 0xffff_ffff_8100_0000, entry, len, len, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&elf).unwrap();
    file
}

/// Configures a machine with one vCPU and no devices, whose kernel is `code`.
pub(crate) fn config(code: &[u8]) -> VmConfig {
    VmConfig {
        user: crate::OwnUser::choose().unwrap(),
        nic_throttles: Default::default(),
        hypervisor: Hypervisor::Kvm,
        name: String::new(),
        vcpus: 1,
        memory: MIN_MEMORY,
        kernel: vmlinux(code),
        initramfs: Vec::new(),
        cmdline: String::new(),
        console_log: None,
        devices: Vec::new(),
        nic_slots: 0,
        nested: false,
    }
}
