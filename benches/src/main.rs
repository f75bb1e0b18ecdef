//! Measures what containers cost, side by side with others' containers.
//!
//! `nacre-bench process BIN_DIR`: on this host's kernel, beside crun and runc.
//! `nacre-bench emulated BIN_DIR VMLINUX`: in emulated microVMs, on this host, beside QEMU's.
//! `nacre-bench vm BIN_DIR VMLINUX`: in microVMs, beside QEMU's; meant for the testbed.
//! `nacre-bench modes BIN_DIR VMLINUX [life|output|files|small-files|network]`: in microVMs, beside
//! the same on the host's kernel; meant for the testbed.

mod bundle;
mod clock;
mod comparison;
mod emulated;
mod modes;
mod peer;
mod process;
mod resident;
mod table;
mod vm;
mod workload;

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["process", bin] => process::measure(Path::new(bin)),
        ["emulated", bin, kernel] => emulated::measure(Path::new(bin), Path::new(kernel)),
        ["vm", bin, kernel] => vm::measure(Path::new(bin), Path::new(kernel)),
        ["modes", bin, kernel, ref parts @ ..] => {
            modes::measure(Path::new(bin), Path::new(kernel), parts)
        }
        ["workload", ref words @ ..] => workload::run(words),
        _ => Err(
            "usage: nacre-bench process BIN_DIR | emulated|vm BIN_DIR VMLINUX | \
             modes BIN_DIR VMLINUX [life|output|files|small-files|network]"
                .into(),
        ),
    }
}
