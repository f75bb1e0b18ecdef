//! Writes what a kernel expects in memory when it is entered.

use std::io;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{boot_params, layout, mptable, registers};

/// What a kernel is started with.
pub(crate) struct Boot<'a> {
    /// The size of guest memory.
    pub(crate) memory_size: u64,
    pub(crate) vcpus: u8,
    /// The command line, at most [`CMDLINE_CAPACITY`](layout::CMDLINE_CAPACITY) bytes with its NUL.
    pub(crate) cmdline: &'a std::ffi::CStr,
    /// The initramfs's address and length.
    pub(crate) initramfs: (GuestAddress, u64),
    /// The pin of the I/O APIC that a PC's timer (the PIT) is connected to.
    pub(crate) timer_pin: u8,
}

impl Boot<'_> {
    /// KVM's I/O APIC has each interrupt of the ISA bus at the pin with its number.
    pub(crate) const KVM_TIMER_PIN: u8 = 0;
    /// In QEMU, as in a PC, the timer is at the pin that the cascade leaves free.
    pub(crate) const PC_TIMER_PIN: u8 = mptable::CASCADE;

    /// Writes what the kernel expects in memory when it is entered.
    pub(crate) fn write(&self, memory: &GuestMemoryMmap) -> Result<(), BootError> {
        let mut rng_seed = [0; boot_params::RNG_SEED_SIZE];
        random(&mut rng_seed).map_err(BootError::Random)?;
        memory.write_slice(self.cmdline.to_bytes_with_nul(), layout::CMDLINE)?;
        boot_params::BootParams {
            memory_size: self.memory_size,
            cmdline_len: self.cmdline.count_bytes(),
            initramfs: self.initramfs,
            rng_seed,
        }
        .write(memory)?;
        mptable::write(memory, self.vcpus, self.timer_pin)?;
        registers::write_tables(memory)?;
        Ok(())
    }
}

/// Why the boot structures could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error(transparent)]
    Memory(#[from] GuestMemoryError),
    #[error("getrandom")]
    Random(#[source] io::Error),
}

/// Fills `bytes` from the host's random number generator.
fn random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `bytes`. Up to 256 bytes are never cut short
    // once the generator is ready (getrandom(2)).
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) == Ok(bytes.len()) {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
