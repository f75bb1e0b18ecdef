//! Programs of a few instructions, for x86-64.

/// Returns a program that executes an undefined instruction.
pub fn faults() -> Vec<u8> {
    executable(&[0x0f, 0x0b])
}

/// Returns a program that writes a line to its standard output and waits forever.
pub fn talks(line: &str) -> Vec<u8> {
    #[rustfmt::skip]
    let mut code = vec![
        0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
        0xbf, 1, 0, 0, 0, // mov edi, 1
        0x48, 0x8d, 0x35, 16, 0, 0, 0, // lea rsi, [rip + 16]
        0xba, line.len() as u8, 0, 0, 0, // mov edx, the length
        0x0f, 0x05, // syscall
        0xb8, 34, 0, 0, 0, // mov eax, 34 (pause)
        0x0f, 0x05, // syscall
        0xeb, 0xf7, // jmp to the mov before
    ];
    code.extend(line.as_bytes());
    executable(&code)
}

/// Returns the smallest static x86-64 ELF executable with this code (System V gABI, chapters 4 and
/// 5).
pub fn executable(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let halves = |elf: &mut Vec<u8>, values: &[u16]| {
        elf.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    };
    let words = |elf: &mut Vec<u8>, values: &[u32]| {
        elf.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    };
    let longs = |elf: &mut Vec<u8>, values: &[u64]| {
        elf.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    };
    halves(&mut elf, &[2, 62]); // ET_EXEC, EM_X86_64
    words(&mut elf, &[1]);
    longs(&mut elf, &[BASE + HEADERS, 64, 0]); // entry, program headers, no sections
    words(&mut elf, &[0]);
    halves(&mut elf, &[64, 56, 1, 0, 0, 0]);
    words(&mut elf, &[1, 5]); // PT_LOAD, readable and executable
    longs(&mut elf, &[0, BASE, BASE, size, size, 0x1000]);
    elf.extend(code);
    elf
}
