//! The zero page, in which the boot protocol passes the kernel its memory map, command line,
//! initramfs and random seed (Documentation/arch/x86/zero-page.rst).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout::{
    CMDLINE, HIGH_MEMORY, LOW_MEMORY_END, MP_TABLE, SETUP_DATA, ZERO_PAGE, memory_ranges,
};

const BOOT_FLAG: u16 = 0xaa55;
const HEADER: u32 = u32::from_le_bytes(*b"HdrS");
/// The version of the boot protocol, 2.15.
const PROTOCOL: u16 = 0x20f;
/// "An unregistered boot loader".
const UNDEFINED_LOADER: u8 = 0xff;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// A seed for the kernel's random number generator, in the `setup_data` chain. It makes the
/// generator ready at once, and nothing in the guest has to wait for entropy.
const SETUP_RNG_SEED: u32 = 9;
pub(super) const RNG_SEED_SIZE: usize = 32;

/// The contents of the zero page.
pub(super) struct BootParams {
    /// The size of guest memory.
    pub(super) memory_size: u64,
    /// The length of the command line, without its NUL.
    pub(super) cmdline_len: usize,
    /// The initramfs's address and length.
    pub(super) initramfs: (GuestAddress, u64),
    /// The random seed.
    pub(super) rng_seed: [u8; RNG_SEED_SIZE],
}

impl BootParams {
    /// Writes the zero page and the `setup_data` it points to.
    pub(super) fn write(&self, memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
        memory.write_slice(&self.setup_data(), SETUP_DATA)?;
        memory.write_slice(self.zero_page().as_slice(), ZERO_PAGE)
    }

    /// Builds a `struct setup_data`: the next one's address, a type, a length, the data.
    fn setup_data(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + RNG_SEED_SIZE);
        bytes.extend_from_slice(&0u64.to_le_bytes());
        bytes.extend_from_slice(&SETUP_RNG_SEED.to_le_bytes());
        bytes.extend_from_slice(&(RNG_SEED_SIZE as u32).to_le_bytes());
        bytes.extend_from_slice(&self.rng_seed);
        bytes
    }

    fn zero_page(&self) -> boot_params {
        let mut params = boot_params::default();
        params.hdr.boot_flag = BOOT_FLAG;
        params.hdr.header = HEADER;
        params.hdr.version = PROTOCOL;
        params.hdr.type_of_loader = UNDEFINED_LOADER;
        params.hdr.cmd_line_ptr = CMDLINE.raw_value() as u32;
        params.hdr.cmdline_size = self.cmdline_len as u32;
        params.hdr.setup_data = SETUP_DATA.raw_value();
        // Both lie below the hole, so they fit in 32 bits.
        params.hdr.ramdisk_image = self.initramfs.0.raw_value() as u32;
        params.hdr.ramdisk_size = self.initramfs.1 as u32;

        let map = e820(self.memory_size);
        for (slot, entry) in params.e820_table.iter_mut().zip(&map) {
            *slot = *entry;
        }
        params.e820_entries = map.len() as u8;
        params
    }
}

/// Returns the map of a memory of `size` bytes.
fn e820(size: u64) -> Vec<boot_e820_entry> {
    let entry = |start: u64, end: u64, type_| boot_e820_entry {
        addr: start,
        size: end - start,
        type_,
    };
    let mut map = vec![
        entry(0, MP_TABLE.raw_value(), E820_RAM),
        entry(MP_TABLE.raw_value(), LOW_MEMORY_END, E820_RESERVED),
    ];
    for (start, len) in memory_ranges(size) {
        let start = start.raw_value();
        map.push(entry(start.max(HIGH_MEMORY), start + len, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn ranges(size: u64) -> Vec<(u64, u64, u32)> {
        e820(size)
            .iter()
            .map(|e| (e.addr, e.size, e.type_))
            .collect()
    }

    #[test]
    fn the_map_covers_memory_but_for_the_hole_and_the_mp_table() {
        assert_eq!(
            ranges(5 * GIB),
            [
                (0, 0x9_fc00, E820_RAM),
                (0x9_fc00, 0x400, E820_RESERVED),
                (0x10_0000, 0xbff0_0000, E820_RAM),
                (4 * GIB, 2 * GIB, E820_RAM),
            ]
        );
        assert_eq!(ranges(64 << 20).len(), 3);
    }

    #[test]
    fn the_zero_page_is_laid_out_as_the_kernel_reads_it() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        BootParams {
            memory_size: 128 << 20,
            cmdline_len: 7,
            initramfs: (GuestAddress(0x7ff_0000), 0x1234),
            rng_seed: [0x5a; RNG_SEED_SIZE],
        }
        .write(&memory)
        .unwrap();

        // Offsets from zero-page.rst and boot.rst.
        let at = |offset: u64| GuestAddress(ZERO_PAGE.0 + offset);
        assert_eq!(memory.read_obj::<u8>(at(0x1e8)).unwrap(), 3);
        assert_eq!(memory.read_obj::<u16>(at(0x1fe)).unwrap(), 0xaa55);
        assert_eq!(memory.read_obj::<[u8; 4]>(at(0x202)).unwrap(), *b"HdrS");
        assert_eq!(memory.read_obj::<u32>(at(0x218)).unwrap(), 0x7ff_0000);
        assert_eq!(memory.read_obj::<u32>(at(0x21c)).unwrap(), 0x1234);
        assert_eq!(memory.read_obj::<u32>(at(0x228)).unwrap(), 0x8800);
        assert_eq!(memory.read_obj::<u64>(at(0x250)).unwrap(), SETUP_DATA.0);
        assert_eq!(memory.read_obj::<u64>(at(0x2d0 + 8)).unwrap(), 0x9_fc00);

        let data = |offset: u64| GuestAddress(SETUP_DATA.0 + offset);
        assert_eq!(memory.read_obj::<u64>(data(0)).unwrap(), 0);
        assert_eq!(memory.read_obj::<u32>(data(8)).unwrap(), SETUP_RNG_SEED);
        assert_eq!(memory.read_obj::<u32>(data(12)).unwrap(), 32);
        assert_eq!(memory.read_obj::<[u8; 32]>(data(16)).unwrap(), [0x5a; 32]);
    }
}
