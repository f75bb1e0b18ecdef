//! The container's network namespace, and this process in it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nacre_agent::{container::bring_loopback_up, network::Netlink};
use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{
    NetworkError,
    redirect::{self, Which},
};

/// The network namespace that a configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::isolation::vm) enum Namespace {
    New,
    /// The one of this file.
    Of(PathBuf),
}

impl Namespace {
    /// The one of a configuration, which has one.
    pub(in crate::isolation::vm) fn of(spec: &Spec) -> Self {
        let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        let mut namespaces = namespaces.into_iter().flatten();
        let network = namespaces.find(|n| n.typ() == LinuxNamespaceType::Network);
        let path = network.and_then(|network| network.path().clone());
        match path.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Self::Of(path),
            None => Self::New,
        }
    }

    /// Where it is, if it is somebody's.
    pub(in crate::isolation::vm) fn path(&self) -> Option<&Path> {
        match self {
            Self::New => None,
            Self::Of(path) => Some(path),
        }
    }

    /// Whether it is made for the container.
    pub(in crate::isolation::vm) fn is_new(&self) -> bool {
        *self == Self::New
    }

    /// Moves this process into one that is new, as others have made it.
    pub(in crate::isolation::vm) fn enter_new(process: impl AsFd) -> Result<(), NetworkError> {
        setns(process, CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .and_then(|()| bring_loopback_up())
            .map_err(NetworkError::Make)
    }

    /// Moves this process into it. The process must have a single thread.
    pub(in crate::isolation::vm) fn enter(&self) -> Result<(), NetworkError> {
        let Self::Of(path) = self else {
            return unshare(CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| bring_loopback_up())
                .map_err(NetworkError::Make);
        };
        let failed = |source| NetworkError::Join {
            path: path.clone(),
            source,
        };
        let namespace = open(path).map_err(failed)?;
        if is_the_hosts(&namespace).map_err(failed)? {
            return Err(NetworkError::TheHosts(path.clone()));
        }
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))
    }
}

/// Whether a namespace is the one that this process is in, or the host's first process, whose
/// interfaces no guest may have.
fn is_the_hosts(namespace: &File) -> io::Result<bool> {
    let which = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let asked = which(namespace.metadata()?);
    let own = which(fs::metadata("/proc/self/ns/net")?);
    // Not everyone may look at the first process.
    let first = fs::metadata("/proc/1/ns/net").ok().map(which);
    Ok(asked == own || Some(asked) == first)
}

/// Removes what a sandbox process that was killed has left in the network namespace that it was
/// in, if that is there still.
pub(crate) fn remove_what_is_left(path: &Path) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Namespace {
        step: "clean up",
        source,
    };
    // What can't be opened is gone, or was never entered.
    let Ok(namespace) = open(path) else {
        return Ok(());
    };
    let mut netlink = match Netlink::open_in(namespace) {
        Ok(netlink) => netlink,
        // It is no namespace, or not one that we may enter: nothing of ours is there.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    for link in netlink.links().map_err(failed)? {
        redirect::remove(&mut netlink, link.index, Which::ToNothing).map_err(failed)?;
    }
    Ok(())
}

/// A path to a FIFO must not make us wait.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}
