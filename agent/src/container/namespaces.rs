//! `linux.namespaces`: new ones, and those of others that are joined.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::error::{InitError, Step};

/// The namespaces of a container.
#[derive(Debug)]
pub(super) struct Namespaces {
    new: CloneFlags,
    joined: Vec<Joined>,
}

#[derive(Debug)]
struct Joined {
    kind: LinuxNamespaceType,
    path: PathBuf,
    file: File,
}

/// A namespace that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("can't join the {kind} namespace of {}", path.display())]
pub(super) struct NamespaceError {
    kind: LinuxNamespaceType,
    path: PathBuf,
    source: io::Error,
}

/// The `CLONE_NEW*` of a kind.
fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    // The enum's values are the kernel's.
    CloneFlags::from_bits_retain(kind as i32)
}

impl Namespaces {
    /// Opens those that are to be joined.
    pub(super) fn open(namespaces: &[LinuxNamespace]) -> Result<Self, NamespaceError> {
        let mut new = CloneFlags::empty();
        let mut joined = Vec::new();
        for namespace in namespaces {
            let kind = namespace.typ();
            let Some(path) = namespace
                .path()
                .clone()
                .filter(|p| !p.as_os_str().is_empty())
            else {
                new |= flag(kind);
                continue;
            };
            // A path to a FIFO must not make us wait.
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(&path);
            match file {
                Ok(file) => joined.push(Joined { kind, path, file }),
                Err(source) => return Err(NamespaceError { kind, path, source }),
            }
        }
        Ok(Namespaces { new, joined })
    }

    /// Whether there is a new one of this kind.
    pub(super) fn has_new(&self, kind: LinuxNamespaceType) -> bool {
        self.new.contains(flag(kind))
    }

    /// Those that the init is cloned into.
    pub(super) fn clone_flags(&self) -> u64 {
        // The root of a new cgroup namespace is the cgroup of the process that asks for it,
        // and that of a clone is its parent's: it has to ask by itself, later.
        (self.new - CloneFlags::CLONE_NEWCGROUP).bits() as u32 as u64
    }

    /// The engine, around the clone: a pid namespace is joined by the children of who joins.
    pub(super) fn join_for_children(&self) -> Result<Option<ForChildren>, NamespaceError> {
        let Some(pid) = self
            .joined
            .iter()
            .find(|j| j.kind == LinuxNamespaceType::Pid)
        else {
            return Ok(None);
        };
        let failed = |source: io::Error| NamespaceError {
            kind: pid.kind,
            path: pid.path.clone(),
            source,
        };
        let own = File::open("/proc/self/ns/pid").map_err(failed)?;
        setns(&pid.file, CloneFlags::CLONE_NEWPID).map_err(|e| failed(e.into()))?;
        Ok(Some(ForChildren { own }))
    }

    /// The init: enters what the clone left to do.
    pub(super) fn enter(&self) -> Result<(), InitError> {
        for Joined { kind, path, file } in &self.joined {
            if *kind != LinuxNamespaceType::Pid {
                setns(file, flag(*kind))
                    .step(|| format!("join the {kind} namespace of {}", path.display()))?;
            }
        }
        if self.has_new(LinuxNamespaceType::Cgroup) {
            unshare(CloneFlags::CLONE_NEWCGROUP).step(|| "make a cgroup namespace")?;
        }
        Ok(())
    }
}

/// Puts this process's later children back into its own pid namespace when dropped.
pub(super) struct ForChildren {
    own: File,
}

impl Drop for ForChildren {
    fn drop(&mut self) {
        // Going back to where one is can't be refused: that needs only what joining needed.
        let _ = setns(&self.own, CloneFlags::CLONE_NEWPID);
    }
}
