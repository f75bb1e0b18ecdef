//! Watches for processes that are OOM-killed.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::setting::{keyed, write};
use super::{Cgroup, CgroupError};

/// Tells when processes of a cgroup run out of memory. Its descriptor is readable when there may be
/// something new, or the cgroup is gone.
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// `memory.events` and `cgroup.events`, and the count so far.
    V2 {
        directory: PathBuf,
        changes: Inotify,
        known: u64,
    },
    /// A counter that the kernel adds to.
    V1 { directory: PathBuf, events: EventFd },
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V2 { changes, .. } => changes.as_fd(),
            Source::V1 { events, .. } => events.as_fd(),
        }
    }
}

impl Cgroup {
    /// Starts to watch. Returns `None` where the host has no memory controller.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`], also if the cgroup is gone.
    pub fn oom_watch(&self) -> Result<Option<OomWatch>, CgroupError> {
        let source = match (self.v1_with("memory"), &self.v2) {
            (Some(directory), _) => Source::v1(directory.to_owned())?,
            (None, Some(directory)) if directory.path.join("memory.events").exists() => {
                Source::v2(directory.path.clone())?
            }
            _ => return Ok(None),
        };
        Ok(Some(OomWatch { source }))
    }
}

impl OomWatch {
    /// Returns how many times processes ran out of memory since the last call, or the start of the
    /// watch; `None` if the cgroup is gone or, on version 2, has no processes any more, so that
    /// nothing more can happen. Doesn't wait.
    ///
    /// # Errors
    ///
    /// The errors of reading the kernel's counts.
    pub fn count(&mut self) -> io::Result<Option<u64>> {
        match &mut self.source {
            Source::V2 {
                directory,
                changes,
                known,
            } => {
                drain(changes)?;
                let populated = read(directory.join("cgroup.events"), "populated")?;
                let Some(now) = read(directory.join("memory.events"), "oom_kill")? else {
                    return Ok(None);
                };
                let new = now.saturating_sub(*known);
                *known = now;
                Ok((new > 0 || populated == Some(1)).then_some(new))
            }
            Source::V1 { directory, events } => {
                let new = match events.read() {
                    Ok(new) => new,
                    Err(nix::errno::Errno::EAGAIN) => 0,
                    Err(error) => return Err(error.into()),
                };
                // The kernel adds one for the end of the cgroup, too.
                Ok(directory
                    .join("cgroup.event_control")
                    .exists()
                    .then_some(new))
            }
        }
    }
}

impl Source {
    fn v2(directory: PathBuf) -> Result<Self, CgroupError> {
        let failed = CgroupError::directory("watch", &directory);
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let watch = |changes: &Inotify| {
            for file in ["memory.events", "cgroup.events"] {
                changes.add_watch(&directory.join(file), AddWatchFlags::IN_MODIFY)?;
            }
            Ok(())
        };
        let changes = changes.and_then(|changes| watch(&changes).map(|()| changes));
        let changes = changes.map_err(|e: nix::errno::Errno| failed(e.into()))?;
        let known = read(directory.join("memory.events"), "oom_kill");
        let known = known.map_err(CgroupError::directory("read", &directory))?;
        Ok(Source::V2 {
            directory,
            changes,
            known: known.unwrap_or(0),
        })
    }

    fn v1(directory: PathBuf) -> Result<Self, CgroupError> {
        let file = directory.join("cgroup.event_control");
        let begin = || {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            let events = EventFd::from_flags(flags)?;
            let control = File::open(directory.join("memory.oom_control"))?;
            let line = format!("{} {}", events.as_fd().as_raw_fd(), control.as_raw_fd());
            write(&file, &line)?;
            Ok(events)
        };
        let events = begin().map_err(CgroupError::directory("watch", &file))?;
        Ok(Source::V1 { directory, events })
    }
}

/// Returns the value of a key in a file; `None` if the file is gone.
fn read(file: PathBuf, key: &str) -> io::Result<Option<u64>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(keyed(&text, key).unwrap_or(0))),
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn drain(changes: &Inotify) -> io::Result<()> {
    loop {
        match changes.read_events() {
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
