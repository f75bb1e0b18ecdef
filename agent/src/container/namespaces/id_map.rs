//! `linux.uidMappings` and `linux.gidMappings`
//! ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)).

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{Pid, getegid, geteuid};
use oci_spec::runtime::{Linux, LinuxIdMapping};
use rustix::thread::{CapabilitySet, capabilities};

use crate::container::config::id_map::{IdKind, lines, mappings};
use crate::container::error::{InitError, Step};
use crate::container::kernel::procfs::Proc;
use crate::container::kernel::sys;
use crate::container::kernel::wait::wait_until_readable;

/// How long newuidmap and newgidmap may take: they may ask a directory service.
const HELPER_BOUND: Duration = Duration::from_secs(20);

/// How much of their output is read, in bytes.
const MAX_WORDS: u64 = 4096;

/// Why the ids of a user namespace can't be mapped as asked.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// The kernel refused the mappings.
    #[error("can't write linux.{field} to {file}")]
    Write {
        /// `uidMappings` or `gidMappings`.
        field: &'static str,
        /// The file that they are written to.
        file: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The program that maps ids for ordinary users doesn't exist, or can't be run.
    #[error(
        "linux.{field} maps more than this user's own id, which takes {program} (of the \
         package uidmap or shadow-utils)"
    )]
    NoHelper {
        /// `uidMappings` or `gidMappings`.
        field: &'static str,
        /// The program.
        program: &'static str,
        /// Why it can't be run.
        source: io::Error,
    },
    /// That program refused the mappings.
    #[error("linux.{field}: {program} refused it (are the ids this user's by {file}?): {words}")]
    Helper {
        /// `uidMappings` or `gidMappings`.
        field: &'static str,
        /// The program.
        program: &'static str,
        /// The file with the ids that it allows.
        file: &'static str,
        /// Its error message.
        words: String,
    },
    /// That program didn't end in time.
    #[error("linux.{field}: {program} isn't done after {} s", HELPER_BOUND.as_secs())]
    HelperTimedOut {
        /// `uidMappings` or `gidMappings`.
        field: &'static str,
        /// The program.
        program: &'static str,
    },
}

/// Maps the ids of the new user namespace that the process `pid` is in.
pub(crate) fn write(proc: &Proc, pid: Pid, linux: &Linux) -> Result<(), IdMapError> {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    // Groups first: without the right to map any group, a process has to give up setgroups in
    // there, and can't do that once they are mapped.
    let [(users, uids), (groups, gids)] = mappings(linux);
    for (kind, mappings, own) in [
        (groups, gids, getegid().as_raw()),
        (users, uids, geteuid().as_raw()),
    ] {
        let file = format!("{pid}/{}", kind.file);
        let only_own = matches!(mappings, [one] if one.host_id() == own && one.size() == 1);
        if !held.contains(kind.capability) {
            if !only_own {
                map_with_helper(kind, pid, mappings)?;
                continue;
            }
            if kind.capability == CapabilitySet::SETGID {
                write_file(proc, kind, &format!("{pid}/setgroups"), "deny")?;
            }
        }
        write_file(proc, kind, &file, &lines(mappings))?;
    }
    Ok(())
}

fn write_file(proc: &Proc, kind: &IdKind, file: &str, value: &str) -> Result<(), IdMapError> {
    proc.write_file(file, value)
        .map_err(|source| IdMapError::Write {
            field: kind.field,
            file: format!("/proc/{file}"),
            source,
        })
}

/// Maps ids as an ordinary user: a privileged program maps those that `/etc/subuid` gives the user.
fn map_with_helper(kind: &IdKind, pid: Pid, mappings: &[LinuxIdMapping]) -> Result<(), IdMapError> {
    let (field, program) = (kind.field, kind.helper);
    let failed = |source| IdMapError::NoHelper {
        field,
        program,
        source,
    };
    let numbers = mappings
        .iter()
        .flat_map(|m| [m.container_id(), m.host_id(), m.size()]);
    let mut child = Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|n| n.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let ended = || {
        let pidfd = sys::pidfd_open(child.id().try_into().map_err(|_| ErrorKind::InvalidData)?)?;
        wait_until_readable(pidfd.as_fd(), HELPER_BOUND)
    };
    match ended() {
        Ok(true) => {}
        other => {
            // It may run as another user, which this one can't kill. Then it is left alone.
            let _ = child.kill();
            return Err(match other {
                Err(error) => failed(error),
                Ok(_) => IdMapError::HelperTimedOut { field, program },
            });
        }
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // The program has ended, so this ends too.
        let _ = stderr.take(MAX_WORDS).read_to_end(&mut words);
    }
    let words = String::from_utf8_lossy(&words);
    let words = words.trim().strip_prefix(program).unwrap_or(words.trim());
    Err(IdMapError::Helper {
        field,
        program,
        file: kind.helpers_file,
        words: match words.trim_start_matches([':', ' ']) {
            "" => status.to_string(),
            words => words.replace('\n', "; "),
        },
    })
}

/// In a joined user namespace: checks that its mappings are those of the configuration, if that has
/// any.
pub(crate) fn check_joined(proc: &Proc, linux: &Linux) -> Result<(), InitError> {
    for (kind, mappings) in mappings(linux) {
        if mappings.is_empty() {
            continue;
        }
        let file = format!("self/{}", kind.file);
        let map = proc.read(&file).step(|| format!("read /proc/{file}"))?;
        let sorted = |text: &str| {
            let numbers = |line: &str| -> Vec<u64> {
                line.split_whitespace()
                    .filter_map(|n| n.parse().ok())
                    .collect()
            };
            let mut lines: Vec<Vec<u64>> = text.lines().map(numbers).collect();
            lines.sort();
            lines
        };
        if sorted(&map) != sorted(&lines(mappings)) {
            return Err(InitError::OtherMappings { field: kind.field });
        }
    }
    Ok(())
}
