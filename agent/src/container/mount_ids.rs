//! `mounts[].uidMappings`, `gidMappings` and the options `idmap` and `ridmap`: mounts on which
//! files belong to other users than in their file system
//! ([mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html),
//! "ID-mapped mounts").

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use oci_spec::runtime::{Linux, LinuxIdMapping, Mount};

use super::child;
use super::config::ConfigError;
use super::error::{InitError, Step};
use super::id_map;
use super::mount_options::MountOptions;
use super::procfs::Proc;
use super::sys;

/// How the ids of a mount are mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountIds {
    /// The mounts below it too.
    recursive: bool,
    /// Both are empty if they are to be those of the container's user namespace.
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

impl MountIds {
    /// What the bind mount `mounts[index]` asks for, if it does.
    ///
    /// # Errors
    ///
    /// As [`ConfigError`] tells, for what [`validate`](super::config::validate) would refuse.
    pub fn of_mount(
        index: usize,
        mount: &Mount,
        linux: &Linux,
    ) -> Result<Option<Self>, ConfigError> {
        let options = mount.options().as_deref().unwrap_or_default();
        let option = MountOptions::parse(options, true)
            .map_err(|e| ConfigError::invalid(format!("mounts[{index}].options"), e.to_string()))?
            .id_mapped;
        let Some(asked) = Self::of(index, mount, option)? else {
            return Ok(None);
        };
        asked.validate(index, linux)?;
        Ok(asked.mappings(linux).map(|[uids, gids]| MountIds {
            recursive: asked.recursive,
            uids: uids.to_vec(),
            gids: gids.to_vec(),
        }))
    }

    /// Maps the owners on a mount that is attached nowhere yet, as [`MountIds::of_mount`] found
    /// them. The calling process must have a single thread.
    ///
    /// # Errors
    ///
    /// The kernel's; `EINVAL` where the mount's file system doesn't allow it
    /// ([mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html)).
    pub fn apply(&self, mount: &OwnedFd) -> io::Result<()> {
        let proc = Proc::open().map_err(io::Error::other)?;
        let namespace = user_namespace(&proc, [&self.uids, &self.gids])?;
        sys::map_mount_ids(mount, namespace.as_fd(), self.recursive)
    }

    /// What `mounts[index]` asks for; `option` is `ridmap` if it is true, `idmap` if not.
    pub(super) fn of(
        index: usize,
        mount: &Mount,
        option: Option<bool>,
    ) -> Result<Option<Self>, ConfigError> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let given = |mappings: &Option<Vec<LinuxIdMapping>>| mappings.clone().unwrap_or_default();
        let (uids, gids) = (given(mount.uid_mappings()), given(mount.gid_mappings()));
        if uids.is_empty() != gids.is_empty() {
            let missing = match uids.is_empty() {
                true => "uidMappings",
                false => "gidMappings",
            };
            return Err(ConfigError::missing(field(missing)));
        }
        if uids.is_empty() && option.is_none() {
            return Ok(None);
        }
        id_map::validate_ranges(&field("uidMappings"), &uids)?;
        id_map::validate_ranges(&field("gidMappings"), &gids)?;
        Ok(Some(MountIds {
            recursive: option.unwrap_or(false),
            uids,
            gids,
        }))
    }

    /// Those that are to be mapped: the mount's own, or the container's.
    fn mappings<'a>(&'a self, linux: &'a Linux) -> Option<[&'a [LinuxIdMapping]; 2]> {
        if !self.uids.is_empty() {
            return Some([&self.uids, &self.gids]);
        }
        let both = [linux.uid_mappings(), linux.gid_mappings()];
        let both = both.map(|mappings| mappings.as_deref().unwrap_or_default());
        both.iter().all(|m| !m.is_empty()).then_some(both)
    }

    /// Checks that there is something to map.
    pub(super) fn validate(&self, index: usize, linux: &Linux) -> Result<(), ConfigError> {
        if self.mappings(linux).is_some() {
            return Ok(());
        }
        let problem = "ids can be mapped only by the mount's own uidMappings and gidMappings, or \
                       those of the container";
        Err(ConfigError::invalid(
            format!("mounts[{index}].options"),
            problem,
        ))
    }
}

/// User namespaces for mounts, of which each is made once.
pub(super) struct Mapper<'a> {
    linux: &'a Linux,
    proc: Proc,
    made: Vec<([Vec<LinuxIdMapping>; 2], OwnedFd)>,
}

impl<'a> Mapper<'a> {
    pub(super) fn new(linux: &'a Linux) -> Result<Self, InitError> {
        Ok(Mapper {
            linux,
            proc: Proc::open()?,
            made: Vec::new(),
        })
    }

    /// Maps the ids of `mounts[index]`, which is attached nowhere yet.
    pub(super) fn map(
        &mut self,
        index: usize,
        mount: &OwnedFd,
        ids: &MountIds,
    ) -> Result<(), InitError> {
        let step = || format!("map the ids of mounts[{index}]");
        let mappings = ids.mappings(self.linux).ok_or(io::ErrorKind::InvalidInput);
        let mappings = mappings.step(step)?;
        let namespace = match self.made.iter().position(|(made, _)| *made == mappings) {
            Some(index) => self.made.get(index),
            None => {
                let namespace = user_namespace(&self.proc, mappings);
                let namespace =
                    namespace.step(|| format!("make a user namespace for mounts[{index}]"))?;
                self.made.push((mappings.map(<[_]>::to_vec), namespace));
                self.made.last()
            }
        };
        let (_, namespace) = namespace.ok_or(io::ErrorKind::NotFound).step(step)?;
        match sys::map_mount_ids(mount, namespace.as_fd(), ids.recursive) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                Err(e).step(|| format!("{}, whose file system may not allow it", step()))
            }
            other => other.step(step),
        }
    }
}

/// Makes a user namespace that nobody is in any more.
fn user_namespace(proc: &Proc, [uids, gids]: [&[LinuxIdMapping]; 2]) -> io::Result<OwnedFd> {
    // SAFETY: the caller of `Container::create` has promised that this is the only thread.
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
