//! Compares an emulated VM with bare QEMU, on this host: `nacre --hypervisor=qemu run` of one line,
//! and QEMU's microvm machine with the same kernel and memory and an initramfs that prints that
//! line.
//!
//! A host has other things to do, and times vary with its load: the two take turns, and what counts
//! is the ratio of their medians.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::bundle::Bundle;
use crate::comparison::Comparison;
use crate::peer;
use crate::vm::{Installation, follow};

/// How often each is run, after one run that isn't counted.
const RUNS: usize = 15;

/// Measures the binaries in `bin` with the guest kernel `kernel`, and prints a Markdown table.
pub(crate) fn measure(bin: &Path, kernel: &Path) -> Result<(), Box<dyn Error>> {
    let work = PathBuf::from(format!("/dev/shm/nacre-bench-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let measured = in_directory(&work, bin, kernel);
    fs::remove_dir_all(&work)?;
    print!("{}", measured?);
    Ok(())
}

fn in_directory(work: &Path, bin: &Path, kernel: &Path) -> Result<Comparison, Box<dyn Error>> {
    let installed = Installation::copy(bin, kernel, work)?;
    let mut bare = peer::qemu_emulated(&installed.kernel, work)??;
    let bundle = Bundle::create(&work.join("bundle"), &["echo", "one line"])?;
    let nacre = || -> Command {
        let mut command = installed.run(&bundle, "emulated");
        command.arg("--hypervisor=qemu");
        command
    };
    let time = |command| {
        let start = Instant::now();
        follow(command, || Ok(start.elapsed()))
    };
    time(nacre())?;
    time(bare())?;
    let mut lines = vec![Vec::new(), Vec::new()];
    let mut ends = lines.clone();
    for _ in 0..RUNS {
        for (index, command) in [nacre(), bare()].into_iter().enumerate() {
            let [line, end] = time(command)?;
            lines[index].push(line);
            ends[index].push(end);
        }
    }
    let title = "emulated microVM, 1 vCPU, 128 MiB";
    let mut table = Comparison::new(title, vec!["nacre", "bare QEMU"]);
    table.times("exec to the line", lines);
    table.times("exec to exit", ends);
    Ok(table)
}
