//! Cleans up if `nacre run` is killed while it waits for a container that isn't to be kept: by then
//! the sandbox process has left the host, and can't remove the container's cgroup and folder. A
//! child process of the command does that.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    mem::forget,
    os::{fd::AsRawFd, unix::net::UnixStream},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork, setsid},
};

use crate::{
    id::Id,
    isolation::remains::{self, RemainsError},
    state::{By, Record, Store},
};

use super::stand_in::keep_nothing_but;

/// How long the sandbox process may take to end after its command has, and how often to check.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// The child process. Dropping this dismisses it: there is nothing left for it to do.
#[derive(Debug)]
pub(super) struct Heir {
    pid: Pid,
    link: UnixStream,
}

impl Heir {
    /// Makes the heir for the container `id` of that sandbox process.
    ///
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(super) unsafe fn make(store: &Store, id: &Id, sandbox: Pid) -> io::Result<Self> {
        let (link, theirs) = UnixStream::pair()?;
        // SAFETY: the caller's promise.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child, link }),
            ForkResult::Child => {
                let status = i32::from(wait(theirs, store, id, sandbox).is_err());
                // SAFETY: _exit ends the process without running anything of the command's.
                unsafe { libc::_exit(status) }
            }
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        // The heir may have been killed.
        let _ = self.link.write_all(b"d");
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

/// Runs as the child process.
fn wait(mut link: UnixStream, store: &Store, id: &Id, sandbox: Pid) -> io::Result<()> {
    // The command's process group may be killed as a whole.
    setsid()?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    // SAFETY: this process neither uses nor closes what else it has open of the command's.
    let fd = unsafe { keep_nothing_but(link.as_raw_fd(), &null) }?;
    forget((std::mem::replace(&mut link, fd), null));
    match link.read(&mut [0])? {
        0 => clean_up(store, id, sandbox).map_err(io::Error::other),
        _ => Ok(()),
    }
}

fn clean_up(store: &Store, id: &Id, sandbox: Pid) -> Result<(), RemainsError> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        let Some(folder) = store.take(id)? else {
            sleep(PAUSE);
            continue;
        };
        let is_its = |record: &Record| match &record.by {
            By::Vm(vm) => vm.sandbox.pid == sandbox.as_raw(),
            By::Process(_) => false,
        };
        let record = folder.record()?;
        if record.is_some_and(|record| is_its(&record) && !record.outlives_its_command()) {
            remains::remove(&folder, id)?;
            folder.remove()?;
        }
        return Ok(());
    }
    Ok(())
}
