//! Measures what starting a container in a microVM costs.
//!
//! Meant for the instruction-counting testbed ([`crate::clock`]): medians of [`RUNS`] runs, with
//! the minimum and the maximum in brackets.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bundle::Bundle;
use crate::clock::{Moment, Taken};
use crate::table::Table;
use crate::{peer, resident};

/// How often each start is measured, after one that isn't.
const RUNS: usize = 3;

/// What is measured: copies on a tmpfs, so that no figure includes waiting for a disk.
pub(crate) struct Installation {
    nacre: PathBuf,
    agent: PathBuf,
    pub(crate) kernel: PathBuf,
    config: PathBuf,
}

impl Installation {
    pub(crate) fn copy(bin: &Path, kernel: &Path, to: &Path) -> Result<Self, Box<dyn Error>> {
        let place = |from: PathBuf, name: &str| -> Result<PathBuf, Box<dyn Error>> {
            let to = to.join(name);
            fs::copy(&from, &to).map_err(|e| format!("copying {}: {e}", from.display()))?;
            Ok(to)
        };
        let nacre = place(bin.join("nacre"), "nacre")?;
        let agent = place(bin.join("nacre-agent"), "nacre-agent")?;
        let kernel = place(kernel.to_path_buf(), "vmlinux")?;
        let config = to.join("nacre.toml");
        fs::write(
            &config,
            format!("[vm]\ncpus = 1\nmemory = \"128M\"\nkernel = {kernel:?}\nagent = {agent:?}\n"),
        )?;
        Ok(Self {
            nacre,
            agent,
            kernel,
            config,
        })
    }

    /// Returns a nacre command.
    pub(crate) fn nacre(&self) -> Command {
        let mut command = Command::new(&self.nacre);
        command.arg("--config").arg(&self.config);
        command
    }

    pub(crate) fn run(&self, bundle: &Bundle, id: &str) -> Command {
        let mut command = self.nacre();
        command
            .args(["run", "--isolation=vm", "--bundle"])
            .arg(&bundle.path)
            .arg(id);
        command
    }
}

/// Runs a command. Returns what `read` gives at its first byte on stdout, and at its end.
pub(crate) fn follow<T>(
    mut command: Command,
    read: impl Fn() -> Result<T, Box<dyn Error>>,
) -> Result<[T; 2], Box<dyn Error>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    let mut byte = [0];
    let arrived = stdout.read(&mut byte)?;
    let first_byte = read()?;
    std::io::copy(&mut stdout, &mut std::io::sink())?;
    let status = child.wait()?;
    let end = read()?;
    if arrived == 0 || !status.success() {
        return Err(format!("{command:?} printed {arrived} bytes and ended with {status}").into());
    }
    Ok([first_byte, end])
}

/// Runs what `command` makes `RUNS` times, after one run that fills the caches. Returns what each
/// run takes to its first byte, and to its end.
fn repeat(mut command: impl FnMut() -> Command) -> Result<[Vec<Taken>; 2], Box<dyn Error>> {
    let mut lines = Vec::new();
    let mut ends = Vec::new();
    for run in 0..=RUNS {
        let start = Moment::now()?;
        let [line, end] = follow(command(), || start.taken())?;
        if run > 0 {
            lines.push(line);
            ends.push(end);
        }
    }
    Ok([lines, ends])
}

/// Measures the binaries in `bin` with the guest kernel `kernel`, and prints a Markdown table.
pub(crate) fn measure(bin: &Path, kernel: &Path) -> Result<(), Box<dyn Error>> {
    let work = PathBuf::from("/dev/shm/nacre-bench");
    fs::create_dir_all(&work)?;
    let installed = Installation::copy(bin, kernel, &work)?;
    let bundle = Bundle::create(&work.join("bundle"), &["echo", "one line"])?;
    let waiting = Bundle::create(
        &work.join("waiting"),
        &["sh", "-c", "echo one line; read line"],
    )?;

    let mut table = Table::new("`nacre run --isolation=vm` of one line, 1 vCPU, 128 MiB");
    let [lines, ends] = repeat(|| installed.run(&bundle, "bench"))?;
    let line = table.instructions("exec to the line", lines);
    let end = table.instructions("exec to exit", ends);
    table.bytes(
        "memory (PSS) of nacre's processes, without guest memory",
        resident::beside_guest(installed.run(&waiting, "resident"))?,
    );
    for (what, file) in [
        ("size of `nacre`", &installed.nacre),
        ("size of `nacre-agent`", &installed.agent),
        ("size of `vmlinux`", &installed.kernel),
    ] {
        table.bytes(what, fs::metadata(file)?.len());
    }
    match peer::qemu_microvm(&installed.kernel, &work)? {
        Ok(command) => {
            let [lines, ends] = repeat(command)?;
            let peer_line =
                table.instructions("bare QEMU microvm, KVM, same kernel: exec to a line", lines);
            let peer_end =
                table.instructions("bare QEMU microvm, KVM, same kernel: exec to exit", ends);
            table.ratio("nacre / QEMU, to the line", line, peer_line);
            table.ratio("nacre / QEMU, to exit", end, peer_end);
        }
        Err(missing) => table.skipped("bare QEMU microvm, same kernel", &missing),
    }
    print!("{table}");
    fs::remove_dir_all(&work)?;
    Ok(())
}
