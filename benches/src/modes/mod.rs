//! Compares what a container costs in a microVM with the same container on the host's kernel.
//!
//! Meant for the instruction-counting testbed, where a nanosecond is an instruction. Programs,
//! bundles and root file systems are on a tmpfs.

mod activity;
mod files;
mod life;
mod network;

use std::error::Error;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;

use crate::bundle::{Bundle, Container};
use crate::clock::{Moment, Taken};
use crate::comparison::Comparison;
use crate::vm::Installation;
use activity::Activity;

/// How often short steps are measured. Long ones are measured once: a clock that counts
/// instructions leaves little to average.
const RUNS: usize = 3;

/// How often a guest is checked for a hang. No workload here leaves all devices alone for that
/// long.
const LOOKS_EVERY: Duration = Duration::from_millis(20);

/// The time within which a guest starts its workload, and ends, or else hangs: at least twice what
/// it takes.
const LONGEST_START: Duration = Duration::from_millis(500);
const LONGEST_END: Duration = Duration::from_millis(200);

/// A mode of isolation.
pub(crate) struct Mode<'a> {
    name: &'static str,
    installed: &'a Installation,
    root: PathBuf,
    work: PathBuf,
}

/// The parts that can be measured.
const PARTS: [(&str, Part); 5] = [
    ("life", life::measure),
    ("output", life::measure_output),
    ("files", files::measure),
    ("small-files", files::measure_small),
    ("network", network::measure),
];

type Part = fn(&[Mode<'_>], &mut Comparison) -> Result<(), Box<dyn Error>>;

/// Measures the binaries in `bin` with the guest kernel `kernel`, all or the named parts, and
/// prints a Markdown table.
pub(crate) fn measure(bin: &Path, kernel: &Path, parts: &[&str]) -> Result<(), Box<dyn Error>> {
    let work = PathBuf::from("/dev/shm/nacre-bench-modes");
    fs::create_dir_all(&work)?;
    // What `nacre create` leaves behind becomes this process's child.
    prctl::set_child_subreaper(true)?;
    let installed = Installation::copy(bin, kernel, &work)?;
    let modes = ["vm", "process"].map(|name| Mode {
        name,
        installed: &installed,
        root: work.join(format!("{name}-root")),
        work: work.join(name),
    });
    let mut table = Comparison::new("millions of instructions", vec!["in a VM", "process"]);
    let mut chosen = PARTS
        .iter()
        .filter(|(name, _)| parts.is_empty() || parts.contains(name));
    let measured = chosen.try_for_each(|(_, measure)| measure(&modes, &mut table));
    fs::remove_dir_all(&work)?;
    print!("{table}");
    measured
}

impl Mode<'_> {
    /// Makes a container's bundle for this mode, in a folder of its own.
    fn bundle(&self, name: &str, container: &Container<'_>) -> Result<Bundle, Box<dyn Error>> {
        let path = self.work.join(name);
        fs::create_dir_all(&path)?;
        let bundle = Bundle::of(&path, container)?;
        let program = std::env::current_exe()?;
        fs::copy(program, bundle.path.join("rootfs/bin/nacre-bench"))?;
        Ok(bundle)
    }

    /// Returns a nacre command.
    fn nacre(&self, words: &[&str]) -> Command {
        let mut command = self.installed.nacre();
        command
            .arg("--root")
            .arg(&self.root)
            .arg(format!("--isolation={}", self.name))
            .args(words);
        command
    }

    /// Runs a nacre command that prints nothing.
    fn carry_out(&self, words: &[&str]) -> Result<(), Box<dyn Error>> {
        let mut command = self.nacre(words);
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{command:?} ended with {status}").into())
        }
    }

    /// Runs a container whose workload is [`crate::workload`]'s. Returns the time between the
    /// workload's marks, unless the guest hung.
    fn time_workload(&self, bundle: &Bundle, id: &str) -> Result<Option<Taken>, Box<dyn Error>> {
        let pid_file = bundle.path.join("pid");
        let mut command = self.nacre(&["run", "--bundle", bundle.path()?]);
        command.arg("--pid-file").arg(&pid_file).arg(id);
        let mut run = Run::start(command)?;
        if !run.writes_within(LONGEST_START)? {
            return self.give_up(run, id);
        }
        run.byte()?;
        let begin = Moment::now()?;
        let activity = Activity::of(&fs::read_to_string(pid_file)?)?;
        let mut seen = activity.look()?;
        while !run.writes_within(LOOKS_EVERY)? {
            let now = activity.look()?;
            if now.is_some() && now == seen {
                return self.give_up(run, id);
            }
            seen = now;
        }
        run.byte()?;
        let took = begin.taken()?;
        if !run.writes_within(LONGEST_END)? {
            return self.give_up(run, id);
        }
        run.end()?;
        Ok(Some(took))
    }

    /// Removes everything of a container whose guest hangs.
    fn give_up(&self, mut run: Run, id: &str) -> Result<Option<Taken>, Box<dyn Error>> {
        run.child.kill()?;
        run.child.wait()?;
        // There may be nothing to delete.
        let _ = self.carry_out(&["delete", "--force", id]);
        Ok(None)
    }
}

/// A running command whose output is read.
struct Run {
    command: Command,
    child: Child,
    stdout: ChildStdout,
}

impl Run {
    fn start(mut command: Command) -> Result<Self, Box<dyn Error>> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        Ok(Self {
            command,
            child,
            stdout,
        })
    }

    /// Waits for a byte of output.
    fn byte(&mut self) -> Result<(), Box<dyn Error>> {
        match self.stdout.read_exact(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                let status = self.child.wait()?;
                Err(format!("{:?} ended too early, with {status}", self.command).into())
            }
            read => Ok(read?),
        }
    }

    /// Returns whether output, or its end, comes within the limit.
    fn writes_within(&self, limit: Duration) -> Result<bool, Box<dyn Error>> {
        let mut output = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit)?;
        Ok(poll(&mut output, limit)? > 0)
    }

    /// Reads to the end.
    fn end(mut self) -> Result<(), Box<dyn Error>> {
        std::io::copy(&mut self.stdout, &mut std::io::sink())?;
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{:?} ended with {status}", self.command).into())
        }
    }
}

/// Returns how long something takes in each mode.
fn in_each(
    modes: &[Mode<'_>],
    what: impl Fn(&Mode<'_>) -> Result<Taken, Box<dyn Error>>,
) -> Result<Vec<Vec<Taken>>, Box<dyn Error>> {
    modes.iter().map(|mode| Ok(vec![what(mode)?])).collect()
}
