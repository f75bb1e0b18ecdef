//! The stand-in of a process that was started in a container later: it is in the namespaces of the
//! container's stand-in.

use std::{fs, io, os::unix::fs::MetadataExt};

use nacre_agent::container::{
    Identity,
    outside::{self, Cloned},
};
use nix::{
    sched::{CloneFlags, setns},
    unistd::Pid,
};

use super::{
    confine,
    error::{StandInError, failed},
    words::Words,
};

/// Every kind of namespace, and its file's name below `/proc/PID/ns`.
const KINDS: [(i32, &str); 8] = [
    (libc::CLONE_NEWUSER, "user"),
    (libc::CLONE_NEWNS, "mnt"),
    (libc::CLONE_NEWPID, "pid"),
    (libc::CLONE_NEWNET, "net"),
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWUTS, "uts"),
    (libc::CLONE_NEWCGROUP, "cgroup"),
    (libc::CLONE_NEWTIME, "time"),
];

/// The way into the namespaces of a container's stand-in.
#[derive(Debug)]
pub(in crate::isolation::vm) struct Joined {
    process: std::os::fd::OwnedFd,
    kinds: CloneFlags,
    words: Words,
}

impl Joined {
    /// Finds the namespaces of the container's stand-in.
    pub(in crate::isolation::vm) fn find(stand_in: Identity) -> Result<Self, StandInError> {
        let pid = stand_in.pid;
        let process = outside::open_process(pid).map_err(failed("find the container's"))?;
        let mut kinds = CloneFlags::empty();
        for (kind, name) in KINDS {
            let differs = differs(pid, name).map_err(failed("look at the container's"))?;
            kinds.set(CloneFlags::from_bits_retain(kind), differs);
        }
        // It must still be the process whose namespaces were looked at.
        if !stand_in.is_alive() {
            return Err(StandInError::Gone);
        }
        let words = Words::find().map_err(failed("find the environment"))?;
        Ok(Self {
            process,
            kinds,
            words,
        })
    }

    /// Enters them, gives up all rights, and then makes a sister of this process, which is visible
    /// there as one that has none. Returns `Some` in this process, with the sister's pid as this
    /// process's parent knows it, and `None` in the sister. This process must have a single thread,
    /// and nothing open of its caller's.
    pub(in crate::isolation::vm) fn enter(self, id: &str) -> Result<Option<Pid>, StandInError> {
        setns(&self.process, self.kinds).map_err(failed("enter the container's namespaces"))?;
        drop(self.process);
        confine::become_root().map_err(failed("become the container's root"))?;
        // SAFETY: the words are this process's, which has a single thread.
        unsafe {
            let words = format!("nacre: stands for a process of {id}");
            self.words.replace(&words);
        }
        confine::drop_rights().map_err(failed("give up its rights"))?;
        // SAFETY: this process has a single thread.
        let cloned = unsafe { outside::clone_process(libc::CLONE_PARENT as u64) };
        Ok(match cloned.map_err(failed("make a process"))? {
            Cloned::Child => None,
            Cloned::Parent { pid, .. } => Some(pid),
        })
    }
}

/// Whether a process's namespace isn't this process's.
fn differs(pid: i32, name: &str) -> io::Result<bool> {
    let look = |of: &str| {
        let metadata = fs::metadata(format!("/proc/{of}/ns/{name}"))?;
        Ok::<_, io::Error>((metadata.dev(), metadata.ino()))
    };
    match look("self") {
        // The kernel has no namespaces of this kind.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        own => Ok(own? != look(&pid.to_string())?),
    }
}
