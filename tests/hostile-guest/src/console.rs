//! The serial port, and the two ways to end.

use core::arch::asm;
use core::fmt::{self, Write};

const PORT: u16 = 0x3f8;

pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print(text.as_bytes());
        Ok(())
    }
}

/// Prints, in one instruction.
pub fn print(bytes: &[u8]) {
    // SAFETY: it reads the bytes, and writes to the port only.
    unsafe {
        asm!("rep outsb", in("dx") PORT, inout("rcx") bytes.len() => _,
            inout("rsi") bytes.as_ptr() => _, options(nostack, readonly, preserves_flags));
    }
}

#[macro_export]
macro_rules! say {
    ($($what:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!($crate::console::Console, $($what)*);
    }};
}

/// Writes a byte to a port.
pub fn out(port: u16, byte: u8) {
    // SAFETY: what is behind the ports has no access to memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack)) }
}

/// Reads a byte from a port.
pub fn inward(port: u16) -> u8 {
    let byte;
    // SAFETY: as above.
    unsafe { asm!("in al, dx", in("dx") port, out("al") byte, options(nomem, nostack)) }
    byte
}

/// Ends the machine.
pub fn power_off() -> ! {
    loop {
        out(0x600, 0x34);
        out(0x64, 0xfe);
    }
}
