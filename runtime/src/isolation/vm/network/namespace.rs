//! The container's network namespace, and how this process enters it.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use nacre_agent::container::bring_loopback_up;
use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::isolation::redirect::open_namespace;

use super::error::NetworkError;

/// The network namespace that a configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::isolation::vm) enum Namespace {
    New,
    /// The namespace of this file.
    Of(PathBuf),
}

impl Namespace {
    /// Returns the network namespace of a configuration, which has one.
    pub(in crate::isolation::vm) fn asked_for(spec: &Spec) -> Self {
        let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        let mut namespaces = namespaces.into_iter().flatten();
        let network = namespaces.find(|n| n.typ() == LinuxNamespaceType::Network);
        let path = network.and_then(|network| network.path().clone());
        match path.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Self::Of(path),
            None => Self::New,
        }
    }

    /// Returns its path, if it isn't new.
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

    /// Moves this process into a new namespace that another process was made with.
    pub(in crate::isolation::vm) fn enter_new(process: impl AsFd) -> Result<(), NetworkError> {
        setns(process, CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .and_then(|()| bring_loopback_up())
            .map_err(NetworkError::Make)
    }

    /// Moves this process into the namespace. The process must have a single thread.
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
        let namespace = open_namespace(path).map_err(failed)?;
        if is_the_hosts(&namespace).map_err(failed)? {
            return Err(NetworkError::TheHosts(path.clone()));
        }
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))
    }
}

/// Whether a namespace is that of this process or of the host's first process, whose interfaces no
/// guest may have.
fn is_the_hosts(namespace: &File) -> io::Result<bool> {
    let which = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let asked = which(namespace.metadata()?);
    let own = which(fs::metadata("/proc/self/ns/net")?);
    // Not everyone may look at the first process.
    let first = fs::metadata("/proc/1/ns/net").ok().map(which);
    Ok(asked == own || Some(asked) == first)
}
