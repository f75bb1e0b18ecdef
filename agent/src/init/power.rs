//! Powers the guest off.

use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};

/// The monitor's exit port, and the value that powers the machine off.
const EXIT_PORT: u16 = 0x600;
const POWER_OFF: u8 = 0x34;

/// Powers the guest off. What file systems have cached must have been written back.
pub(super) fn off() -> ! {
    // SAFETY: ioperm touches no memory.
    if Errno::result(unsafe { libc::ioperm(EXIT_PORT.into(), 1, 1) }).is_ok() {
        // SAFETY: this process may access the port, and only the monitor is behind it.
        unsafe {
            std::arch::asm!(
                "out dx, al",
                in("dx") EXIT_PORT,
                in("al") POWER_OFF,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
    // Another monitor, or a kernel without ioperm. There is no ACPI to power off with; a reset ends
    // the machine too.
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    loop {
        sleep(Duration::from_secs(3600));
    }
}
