//! Slots for network devices, which the host fills while the guest runs.
//!
//! A slot is a virtio-mmio device of the platform bus, declared on the command line. An empty slot
//! has the device type 0, which the driver skipped when the guest booted; it looks again when it is
//! bound (<https://docs.kernel.org/driver-api/driver-model/binding.html>).

use std::fs;
use std::io;
use std::path::PathBuf;

const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";

/// Makes the network device in slot `slot` an interface, unless it is one already, as under QEMU.
/// Returns the interface's name in this process's network namespace.
///
/// # Errors
///
/// `ENODEV` if the slot is empty; `NotFound` if there is no such slot or its device is of another
/// kind.
pub(super) fn bind(slot: u32) -> io::Result<String> {
    if !device(slot).join("driver").exists() {
        fs::write(format!("{DRIVER}/bind"), name(slot))?;
    }
    interface(slot)
}

/// Unbinds the driver from the device in slot `slot`, if it is bound. The interface goes with that,
/// whatever namespace it has been moved to.
///
/// # Errors
///
/// The error of writing to sysfs.
pub(super) fn unbind(slot: u32) -> io::Result<()> {
    if !device(slot).join("driver").exists() {
        return Ok(());
    }
    fs::write(format!("{DRIVER}/unbind"), name(slot))
}

/// Returns the kernel's name for the `slot`th device of the command line.
fn name(slot: u32) -> String {
    format!("virtio-mmio.{slot}")
}

fn device(slot: u32) -> PathBuf {
    PathBuf::from("/sys/bus/platform/devices").join(name(slot))
}

/// Finds the interface below the virtio device in a slot.
fn interface(slot: u32) -> io::Result<String> {
    for entry in fs::read_dir(device(slot))? {
        let Ok(interfaces) = fs::read_dir(entry?.path().join("net")) else {
            continue;
        };
        for interface in interfaces {
            if let Ok(name) = interface?.file_name().into_string() {
                return Ok(name);
            }
        }
    }
    Err(io::ErrorKind::NotFound.into())
}
