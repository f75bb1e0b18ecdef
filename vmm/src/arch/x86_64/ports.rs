//! I/O ports: the serial console, the two ways for a guest to end, and harmless answers to a guest
//! that looks for a PC's other devices.

use std::io;
use std::sync::Mutex;

use kvm_ioctls::VmFd;
use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::console::ConsoleWriter;
use crate::exit::Exit;

const COM1: u16 = 0x3f8;
const COM1_LAST: u16 = COM1 + 7;
const COM1_IRQ: u32 = 4;

/// The exit port: an orderly power-off for a guest without ACPI.
const EXIT_PORT: u16 = 0x600;
const EXIT_POWER_OFF: u8 = 0x34;

/// The keyboard controller's command and status port, and the command that pulses the reset line:
/// Linux reboots this way with `reboot=k`.
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;

/// The clock's data port.
const CMOS_DATA: u16 = 0x71;

/// Timer and parity status. Bit 5 is the output of the timer's channel 2, which a kernel that
/// calibrates against it waits for; bits 6 and 7 would mean that memory is broken.
const SYSTEM_CONTROL: u16 = 0x61;
const TIMER_2_OUT: u8 = 1 << 5;

/// The I/O ports of the machine.
///
/// Its one lock is held for a single access.
pub(crate) struct Ports {
    serial: Mutex<Serial<SerialInterrupt, NoEvents, ConsoleWriter>>,
}

impl Ports {
    /// Creates the devices behind the ports; the serial console writes to `console`.
    ///
    /// # Errors
    ///
    /// If its interrupt can't be created.
    pub(crate) fn new(vm: &VmFd, console: ConsoleWriter) -> io::Result<Ports> {
        let interrupt = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        vm.register_irqfd(&interrupt, COM1_IRQ)?;
        Ok(Ports::with_interrupt(interrupt, console))
    }

    fn with_interrupt(interrupt: EventFd, console: ConsoleWriter) -> Ports {
        Ports {
            serial: Mutex::new(Serial::new(SerialInterrupt(interrupt), console)),
        }
    }

    /// Handles the guest's write of `data` to `port`. Some writes end the machine.
    ///
    /// A string instruction writes many bytes to one port.
    pub(crate) fn write(&self, port: u16, data: &[u8]) -> Option<Exit> {
        match (port, data.first()) {
            (COM1..=COM1_LAST, _) => {
                let mut serial = self.serial.lock().unwrap_or_else(|e| e.into_inner());
                for &byte in data {
                    // The guest needn't know about an interrupt that is already pending or a log
                    // that can't be written.
                    let _ = serial.write((port - COM1) as u8, byte);
                }
                None
            }
            (I8042_COMMAND, Some(&I8042_RESET)) => Some(Exit::Reset),
            (EXIT_PORT, Some(&EXIT_POWER_OFF)) => Some(Exit::PowerOff),
            _ => None,
        }
    }

    /// Handles the guest's read from `port`.
    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        match port {
            COM1..=COM1_LAST => {
                let mut serial = self.serial.lock().unwrap_or_else(|e| e.into_inner());
                for byte in data {
                    *byte = serial.read((port - COM1) as u8);
                }
            }
            // The keyboard controller is ready for a command, and the clock isn't being updated: a
            // kernel waits for both before it continues.
            I8042_COMMAND | CMOS_DATA => data.fill(0),
            SYSTEM_CONTROL => data.fill(TIMER_2_OUT),
            // A floating bus.
            _ => data.fill(0xff),
        }
    }
}

/// The serial port's interrupt line.
struct SerialInterrupt(EventFd);

impl Trigger for SerialInterrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Console;

    fn ports() -> (Ports, std::sync::Arc<Console>) {
        let (console, writer) = Console::new(None);
        let interrupt = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap();
        (Ports::with_interrupt(interrupt, writer), console)
    }

    #[test]
    fn serial_output_reaches_the_console() {
        let (ports, console) = ports();
        assert_eq!(ports.write(COM1, b"hello\n"), None);
        assert_eq!(console.tail(), "hello\n");
        let mut status = [0];
        ports.read(COM1 + 5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60, "the transmitter is empty");
    }

    #[test]
    fn reset_and_power_off() {
        let (ports, _) = ports();
        assert_eq!(ports.write(0x64, &[0xfe]), Some(Exit::Reset));
        assert_eq!(ports.write(0x64, &[0x20]), None);
        assert_eq!(ports.write(0x600, &[0x34]), Some(Exit::PowerOff));
        assert_eq!(ports.write(0x600, &[0x00]), None);
        assert_eq!(ports.write(0x600, &[]), None);
    }

    #[test]
    fn absent_devices_read_as_a_floating_bus() {
        let (ports, _) = ports();
        let mut data = [0; 4];
        ports.read(0xcf8, &mut data);
        assert_eq!(data, [0xff; 4]);
        for (port, value) in [(0x64, 0), (0x71, 0), (0x61, 0x20)] {
            ports.read(port, &mut data[..1]);
            assert_eq!(data[0], value);
        }
    }
}
