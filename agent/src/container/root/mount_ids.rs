//! `mounts[].uidMappings`, `gidMappings` and the options `idmap` and `ridmap`: mounts on which
//! files belong to other users than in their file system
//! ([mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html),
//! "ID-mapped mounts").

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use oci_spec::runtime::{Linux, LinuxIdMapping};

use crate::container::config::id_map;
use crate::container::config::mount_ids::MountIds;
use crate::container::error::{InitError, Step, StepError};
use crate::container::fork::child;
use crate::container::kernel::mount_calls::map_mount_ids;
use crate::container::kernel::procfs::Proc;

impl MountIds {
    /// Maps the owners on a mount that isn't attached yet, as [`MountIds::of_mount`] found them.
    ///
    /// # Errors
    ///
    /// The kernel's; `EINVAL` where the mount's file system doesn't allow it
    /// ([mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html)).
    ///
    /// # Safety
    ///
    /// The calling process must have a single thread: it makes a fork of itself for a moment.
    pub unsafe fn apply(&self, mount: &OwnedFd) -> io::Result<()> {
        let proc = Proc::open().map_err(io::Error::other)?;
        // SAFETY: the caller's promise.
        let namespace = unsafe { user_namespace(&proc, [&self.uids, &self.gids]) }?;
        map_mount_ids(mount, namespace.as_fd(), self.extent)
    }
}

/// Makes user namespaces for mounts, each of them once.
pub(crate) struct IdMapper<'a> {
    linux: &'a Linux,
    /// The user namespace that the container joins.
    joined: Option<BorrowedFd<'a>>,
    proc: Proc,
    made: Vec<([Vec<LinuxIdMapping>; 2], OwnedFd)>,
}

impl<'a> IdMapper<'a> {
    pub(crate) fn new(linux: &'a Linux, joined: Option<BorrowedFd<'a>>) -> Result<Self, InitError> {
        Ok(IdMapper {
            linux,
            joined,
            proc: Proc::open()?,
            made: Vec::new(),
        })
    }

    /// Maps the ids of `mounts[index]`, which isn't attached yet.
    ///
    /// # Safety
    ///
    /// As with [`MountIds::apply`].
    pub(crate) unsafe fn map(
        &mut self,
        index: usize,
        mount: &OwnedFd,
        ids: &MountIds,
    ) -> Result<(), StepError> {
        let step = || format!("map the ids of mounts[{index}]");
        // SAFETY: the caller's promise.
        let namespace = unsafe { self.namespace(index, ids) }?;
        match map_mount_ids(mount, namespace, ids.extent) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                Err(e).step(|| format!("{}, whose file system may not allow it", step()))
            }
            other => other.step(step),
        }
    }

    /// Returns a user namespace with the mappings of `mounts[index]`.
    ///
    /// # Safety
    ///
    /// As with [`MountIds::apply`].
    unsafe fn namespace(
        &mut self,
        index: usize,
        ids: &MountIds,
    ) -> Result<BorrowedFd<'_>, StepError> {
        let step = || format!("make a user namespace for mounts[{index}]");
        let mappings = match (ids.mappings(self.linux), self.joined) {
            (Some(mappings), _) => mappings,
            (None, Some(joined)) => return Ok(joined),
            (None, None) => return Err(io::Error::from(io::ErrorKind::InvalidInput)).step(step),
        };
        let at = match self.made.iter().position(|(made, _)| *made == mappings) {
            Some(at) => at,
            None => {
                // SAFETY: the caller's promise.
                let namespace = unsafe { user_namespace(&self.proc, mappings) }.step(step)?;
                self.made.push((mappings.map(<[_]>::to_vec), namespace));
                self.made.len() - 1
            }
        };
        let namespace = self.made.get(at).ok_or(io::ErrorKind::NotFound);
        namespace.step(step).map(|(_, namespace)| namespace.as_fd())
    }
}

/// Makes a user namespace that has no process left in it.
///
/// # Safety
///
/// As with [`MountIds::apply`].
unsafe fn user_namespace(proc: &Proc, [uids, gids]: [&[LinuxIdMapping]; 2]) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let child = unsafe {
        child::spawn(libc::CLONE_NEWUSER as u64, None, |channel| {
            // Until it is killed, or the engine is gone.
            let _ = channel.wait_for_release();
            0
        })
    }?;
    let pid = child.pid;
    let made = proc
        .write_file(&format!("{pid}/uid_map"), &id_map::lines(uids))
        .and_then(|()| proc.write_file(&format!("{pid}/gid_map"), &id_map::lines(gids)))
        .and_then(|()| proc.open_file(&format!("{pid}/ns/user"), OFlag::O_RDONLY));
    child.end();
    Ok(made?.into())
}
