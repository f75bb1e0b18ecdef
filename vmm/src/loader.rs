//! Loads a kernel and an initramfs into guest memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::arch::{ELF_MACHINE, HIGH_MEMORY, KERNEL_LIMIT, KERNEL_SPACE, memory_ranges};
use crate::memory::copy_from_file;

const PAGE: u64 = 4096;

// Offsets and values of the 64-bit ELF header and its program headers (elf(5)).
const EHDR_SIZE: usize = 64;
const PHDR_SIZE: usize = 56;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
/// A vmlinux has half a dozen program headers. The limit keeps a file from costing more.
const MAX_PHDRS: u16 = 64;

/// Why a kernel or an initramfs could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file isn't a kernel that this monitor can boot.
    #[error("the kernel is not an ELF vmlinux for this machine: {0}")]
    NotAKernel(&'static str),
    /// The kernel's file could not be read.
    #[error("reading the kernel")]
    ReadKernel(#[source] io::Error),
    /// A part of the initramfs could not be read.
    #[error("reading part {part} of the initramfs")]
    ReadInitramfs {
        /// Which part, from 0.
        part: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Memory is too small for the kernel and the initramfs.
    #[error(
        "guest memory of {available} bytes is too small: kernel and initramfs take {needed} bytes"
    )]
    TooSmall {
        /// Bytes from address 0 to the kernel's end, and those of the initramfs.
        needed: u64,
        /// Bytes of memory; only those below 4 GiB count.
        available: u64,
    },
}

/// A piece of an initramfs.
#[derive(Debug)]
pub enum InitramfsPart {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A regular file, from beginning to end, read directly into guest memory.
    File(File),
}

impl InitramfsPart {
    fn len(&self) -> io::Result<u64> {
        match self {
            InitramfsPart::Bytes(bytes) => Ok(bytes.len() as u64),
            InitramfsPart::File(file) => Ok(file.metadata()?.len()),
        }
    }
}

/// A loaded kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Its entry point.
    pub(crate) entry: GuestAddress,
    /// The first address after it.
    pub(crate) end: u64,
}

/// What an ELF file says about itself.
struct Image {
    kernel: Kernel,
    segments: Vec<Segment>,
}

/// A segment's bytes in the file, which go into memory.
struct Segment {
    offset: u64,
    address: GuestAddress,
    len: u64,
}

/// Loads an ELF vmlinux, each segment at its physical address. Memory is zero where a segment has
/// no bytes in the file.
pub(crate) fn load_kernel(
    memory: &GuestMemoryMmap,
    memory_size: u64,
    file: &File,
) -> Result<Kernel, LoadError> {
    let Image { kernel, segments } = parse_kernel(file)?;
    let available = low_memory(memory_size);
    if kernel.end > available {
        return Err(LoadError::TooSmall {
            needed: kernel.end,
            available,
        });
    }
    for segment in segments {
        copy_from_file(memory, segment.address, file, segment.offset, segment.len)
            .map_err(LoadError::ReadKernel)?;
    }
    Ok(kernel)
}

/// Checks that this is a kernel and not some other executable, and that everything it says about
/// its segments can be followed.
fn parse_kernel(file: &File) -> Result<Image, LoadError> {
    let not = LoadError::NotAKernel;
    let metadata = file.metadata().map_err(LoadError::ReadKernel)?;
    if !metadata.is_file() {
        return Err(not("it is not a regular file"));
    }
    let header: [u8; EHDR_SIZE] =
        read_at(file, 0)?.ok_or(not("it is shorter than an ELF header"))?;
    if header[..4] != *b"\x7fELF" {
        return Err(not("it has no ELF header (a bzImage must be unpacked)"));
    }
    if header[4] != ELFCLASS64 || header[5] != ELFDATA2LSB {
        return Err(not("it is not 64-bit little-endian"));
    }
    if u16_at(&header, 18) != ELF_MACHINE {
        return Err(not("it is for another processor"));
    }
    if !matches!(u16_at(&header, 16), ET_EXEC | ET_DYN) {
        return Err(not("it is not an executable"));
    }
    let (offset, size, count) = (
        u64_at(&header, 32),
        u16_at(&header, 54),
        u16_at(&header, 56),
    );
    if usize::from(size) != PHDR_SIZE || count == 0 || count > MAX_PHDRS {
        return Err(not("its program headers are not those of a kernel"));
    }

    let entry = u64_at(&header, 24);
    let (mut end, mut entered_at) = (0, None);
    let mut segments = Vec::new();
    for index in 0..u64::from(count) {
        let truncated = || not("it is truncated");
        let phdr_offset = offset
            .checked_add(index * PHDR_SIZE as u64)
            .ok_or_else(truncated)?;
        let phdr: [u8; PHDR_SIZE] = read_at(file, phdr_offset)?.ok_or_else(truncated)?;
        if u32_at(&phdr, 0) != PT_LOAD {
            continue;
        }
        let (offset, virtual_, start) = (u64_at(&phdr, 8), u64_at(&phdr, 16), u64_at(&phdr, 24));
        let (file_size, size) = (u64_at(&phdr, 32), u64_at(&phdr, 40));
        if offset
            .checked_add(file_size)
            .is_none_or(|end| end > metadata.len())
        {
            return Err(truncated());
        }
        let segment_end = start
            .checked_add(size)
            .filter(|&end| start >= HIGH_MEMORY && file_size <= size && end <= KERNEL_LIMIT)
            .ok_or_else(|| not("a segment lies where no kernel is loaded"))?;
        end = end.max(segment_end);
        if (start..start + file_size).contains(&entry) {
            entered_at = Some(virtual_);
        }
        segments.push(Segment {
            offset,
            address: GuestAddress(start),
            len: file_size,
        });
    }
    match entered_at {
        // Other segments may have other addresses: the per-CPU one counts from 0.
        Some(virtual_) if virtual_ >= KERNEL_SPACE => {}
        Some(_) => return Err(not("it is a program, not a kernel")),
        None => return Err(not("its entry point is outside its segments")),
    }
    let kernel = Kernel {
        entry: GuestAddress(entry),
        end,
    };
    Ok(Image { kernel, segments })
}

/// Places the parts end to end at the top of low memory, from the start of a page.
///
/// Returns their address and total length.
pub(crate) fn load_initramfs(
    memory: &GuestMemoryMmap,
    memory_size: u64,
    kernel_end: u64,
    parts: &[InitramfsPart],
) -> Result<(GuestAddress, u64), LoadError> {
    let available = low_memory(memory_size);
    let mut lengths = Vec::with_capacity(parts.len());
    let mut total = 0u64;
    for (part, content) in parts.iter().enumerate() {
        let len = content
            .len()
            .map_err(|source| LoadError::ReadInitramfs { part, source })?;
        total = total.saturating_add(len);
        lengths.push(len);
    }
    let too_small = LoadError::TooSmall {
        needed: kernel_end.saturating_add(total),
        available,
    };
    let start = match available.checked_sub(total) {
        Some(start) if start & !(PAGE - 1) >= kernel_end => start & !(PAGE - 1),
        _ => return Err(too_small),
    };

    let mut address = GuestAddress(start);
    for (part, (content, len)) in parts.iter().zip(lengths).enumerate() {
        match content {
            InitramfsPart::Bytes(bytes) => {
                memory.write_slice(bytes, address).map_err(io::Error::other)
            }
            InitramfsPart::File(file) => copy_from_file(memory, address, file, 0, len),
        }
        .map_err(|source| LoadError::ReadInitramfs { part, source })?;
        address.0 += len;
    }
    Ok((GuestAddress(start), total))
}

/// Returns how much of the memory lies below the hole.
fn low_memory(memory_size: u64) -> u64 {
    memory_ranges(memory_size)
        .first()
        .map_or(0, |range| range.1)
}

/// Reads `N` bytes at `offset`; `None` if the file ends before them.
fn read_at<const N: usize>(file: &File, offset: u64) -> Result<Option<[u8; N]>, LoadError> {
    let mut bytes = [0; N];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Some(bytes)),
        // An offset beyond the maximum of a file is refused as invalid.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(LoadError::ReadKernel(e)),
    }
}

/// Returns the integer at `offset` of a header, whose size the caller knows.
fn u16_at<const N: usize>(header: &[u8; N], offset: usize) -> u16 {
    u64_at(header, offset) as u16
}

fn u32_at<const N: usize>(header: &[u8; N], offset: usize) -> u32 {
    u64_at(header, offset) as u32
}

/// Reads eight bytes; those beyond the header's end count as 0.
fn u64_at<const N: usize>(header: &[u8; N], offset: usize) -> u64 {
    header[offset..]
        .iter()
        .take(8)
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory;

    const MEMORY: u64 = 64 << 20;

    struct Phdr {
        kind: u32,
        virtual_: u64,
        physical: u64,
        file_size: u64,
        size: u64,
    }

    const TEXT: Phdr = Phdr {
        kind: PT_LOAD,
        virtual_: 0xffff_ffff_8100_0000,
        physical: 0x100_0000,
        file_size: 0x1000,
        size: 0x3000,
    };

    /// Builds a vmlinux that has the same byte pattern in every segment.
    fn elf(entry: u64, segments: &[Phdr]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(ET_EXEC.to_le_bytes());
        file.extend(ELF_MACHINE.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(entry.to_le_bytes());
        file.extend((EHDR_SIZE as u64).to_le_bytes());
        file.extend([0; 12]);
        file.extend((EHDR_SIZE as u16).to_le_bytes());
        file.extend((PHDR_SIZE as u16).to_le_bytes());
        file.extend((segments.len() as u16).to_le_bytes());
        file.resize(EHDR_SIZE, 0);
        let mut offset = (EHDR_SIZE + segments.len() * PHDR_SIZE) as u64;
        for segment in segments {
            file.extend(segment.kind.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            for word in [
                offset,
                segment.virtual_,
                segment.physical,
                segment.file_size,
                segment.size,
                0x1000,
            ] {
                file.extend(word.to_le_bytes());
            }
            offset += segment.file_size;
        }
        file.resize(offset as usize, 0xc3);
        file
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn load(bytes: &[u8]) -> Result<Kernel, LoadError> {
        load_kernel(&memory::create(MEMORY).unwrap(), MEMORY, &file(bytes))
    }

    #[track_caller]
    fn assert_refused(bytes: &[u8], why: &str) {
        match load(bytes) {
            Err(LoadError::NotAKernel(reason)) => assert!(reason.contains(why), "{reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn segments_go_where_they_say() {
        let memory = memory::create(MEMORY).unwrap();
        let bytes = elf(0x100_0010, &[TEXT]);
        let kernel = load_kernel(&memory, MEMORY, &file(&bytes)).unwrap();
        let expected = Kernel {
            entry: GuestAddress(0x100_0010),
            end: 0x100_3000,
        };
        assert_eq!(kernel, expected);
        let word: [u8; 2] = memory.read_obj(GuestAddress(0x100_0fff)).unwrap();
        assert_eq!(word, [0xc3, 0]);
    }

    #[test]
    fn the_per_cpu_segment_has_low_virtual_addresses() {
        for virtual_ in [0, 0x6000] {
            let per_cpu = Phdr {
                virtual_,
                physical: 0x110_0000,
                ..TEXT
            };
            let kernel = load(&elf(0x100_0010, &[TEXT, per_cpu])).unwrap();
            assert_eq!(kernel.end, 0x110_3000);
        }
    }

    #[test]
    fn what_is_not_a_kernel_is_refused() {
        assert_refused(b"", "shorter");
        assert_refused(
            b"#!/bin/sh\necho hello, this is a script of some length, yes it is\n",
            "no ELF",
        );
        let mut other = elf(0x100_0000, &[TEXT]);
        other[18] = 183;
        assert_refused(&other, "another processor");
        let mut narrow = elf(0x100_0000, &[TEXT]);
        narrow[4] = 1;
        assert_refused(&narrow, "64-bit");
        let program = Phdr {
            virtual_: 0x40_0000,
            physical: 0x40_0000,
            ..TEXT
        };
        assert_refused(&elf(0x40_0000, &[program]), "a program");
        let executable = std::fs::read("/proc/self/exe").unwrap();
        assert!(matches!(load(&executable), Err(LoadError::NotAKernel(_))));
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert_refused(&elf(0x50_0000, &[TEXT]), "entry point");
        assert_refused(&elf(0x100_0000, &[]), "program headers");
        for (physical, size) in [(0x7000, 0x1000), (u64::MAX, 0x1000), (0x100_0000, u64::MAX)] {
            let segment = Phdr {
                physical,
                size,
                ..TEXT
            };
            assert_refused(&elf(0x100_0000, &[segment]), "no kernel is loaded");
        }
        let larger_in_file = Phdr { size: 0x10, ..TEXT };
        assert_refused(&elf(0x100_0000, &[larger_in_file]), "no kernel is loaded");
        let mut far = elf(0x100_0000, &[TEXT]);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_refused(&far, "truncated");
    }

    #[test]
    fn a_truncated_kernel_is_refused_wherever_it_is_cut() {
        let whole = elf(0x100_0000, &[TEXT]);
        for len in [0, 3, 16, 63, 64, 100, 119, 120, whole.len() - 1] {
            assert!(
                matches!(load(&whole[..len]), Err(LoadError::NotAKernel(_))),
                "{len}"
            );
        }
        load(&whole).unwrap();
    }

    #[test]
    fn no_header_byte_makes_it_panic() {
        let whole = elf(0x100_0000, &[TEXT]);
        let memory = memory::create(MEMORY).unwrap();
        for index in 0..EHDR_SIZE + PHDR_SIZE {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[index] = value;
                let _ = load_kernel(&memory, MEMORY, &file(&bytes));
            }
        }
    }

    #[test]
    fn initramfs_parts_lie_end_to_end_at_the_top() {
        let memory = memory::create(MEMORY).unwrap();
        let parts = [
            InitramfsPart::Bytes(b"abc".to_vec()),
            InitramfsPart::File(file(b"defgh")),
            InitramfsPart::Bytes(b"i".to_vec()),
        ];
        let (start, len) = load_initramfs(&memory, MEMORY, 0, &parts).unwrap();
        assert_eq!((start.0, len), (MEMORY - PAGE, 9));
        assert_eq!(&memory.read_obj::<[u8; 10]>(start).unwrap(), b"abcdefghi\0");
        let nothing = load_initramfs(&memory, MEMORY, 0, &[]).unwrap();
        assert_eq!(nothing, (GuestAddress(MEMORY), 0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let memory = memory::create(MEMORY).unwrap();
        let parts = [InitramfsPart::Bytes(vec![0; 2 * PAGE as usize])];
        load_initramfs(&memory, MEMORY, MEMORY - 2 * PAGE, &parts).unwrap();
        let error = load_initramfs(&memory, MEMORY, MEMORY - 2 * PAGE + 1, &parts);
        assert!(matches!(error, Err(LoadError::TooSmall { .. })));
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(1 << 40).unwrap();
        let error = load_initramfs(&memory, MEMORY, 0, &[InitramfsPart::File(sparse)]);
        assert!(matches!(error, Err(LoadError::TooSmall { .. })));
        let large = Phdr {
            size: MEMORY,
            ..TEXT
        };
        let error = load(&elf(0x100_0000, &[large]));
        assert!(
            matches!(error, Err(LoadError::TooSmall { .. })),
            "{error:?}"
        );
    }
}
