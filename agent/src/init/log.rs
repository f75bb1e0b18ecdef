//! Writes the init's messages to the guest's console.

use std::fs::OpenOptions;
use std::io::Write;

/// Severity `KERN_ERR`: `quiet` kernels show it on the console too.
const ERROR: &str = "<3>";

/// Writes a line through the kernel's log. That prints it at once, while what is written to the
/// console's terminal may still be in a buffer when the machine is powered off.
pub(super) fn error(message: &str) {
    let message = message.replace('\n', " | ");
    let line = format!("{ERROR}nacre-agent: {message}\n");
    let written = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(line.as_bytes()));
    // There is no /dev yet if mounting it has failed.
    if written.is_err() {
        eprintln!("nacre-agent: {message}");
    }
}
