//! The sources of a container's bind mounts, which its guest is given by way of the share.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nacre_agent::container::{MountIds, config::ConfigError};
use oci_spec::runtime::{Linux, Mount};

use super::{
    devices,
    file_systems::{self, NotServed},
};

/// The source of a bind mount.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::isolation::vm) struct Source {
    pub(in crate::isolation::vm) path: PathBuf,
    pub(in crate::isolation::vm) is_directory: bool,
    /// With the mounts below it.
    pub(in crate::isolation::vm) recursive: bool,
    pub(in crate::isolation::vm) read_only: bool,
    /// How the owners of its files are mapped. That is done on this side, so that it depends on
    /// this kernel alone; the guest sees the owners that come out.
    pub(in crate::isolation::vm) ids: Option<MountIds>,
}

/// Why a guest can't be given the source of a bind mount.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("mounts[{0}].source is missing")]
    Missing(usize),
    #[error("mounts[{index}].source: {path}")]
    NotThere {
        index: usize,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("mounts[{index}].source: {path} is a {kind}, which a VM can't share with the host")]
    Kind {
        index: usize,
        path: PathBuf,
        kind: &'static str,
    },
    #[error(
        "mounts[{index}].source: {path} is in a file system of the type {kind}, which a VM isn't \
         given; mount the guest's own, of the type proc, sysfs, cgroup, mqueue, ..."
    )]
    NotServed {
        index: usize,
        path: PathBuf,
        kind: NotServed,
    },
    #[error(transparent)]
    Options(#[from] ConfigError),
}

/// The source of `mounts[index]`, if it is a bind mount that the share has to have something for.
/// What is done about it on this side is taken out of the mount; a device becomes the guest's own,
/// which may be `nested`.
pub(in crate::isolation::vm) fn take(
    directory: &Path,
    index: usize,
    mount: &mut Mount,
    linux: &Linux,
    nested: bool,
) -> Result<Option<Source>, SourceError> {
    let options: Vec<String> = mount
        .options()
        .iter()
        .flatten()
        .flat_map(|option| option.split(','))
        .map(str::to_owned)
        .collect();
    let has = |names: &[&str]| options.iter().any(|o| names.contains(&o.as_str()));
    let binds = mount.typ().as_deref() == Some("bind") || has(&["bind", "rbind"]);
    if !binds || has(&["remount"]) {
        return Ok(None);
    }
    let source = mount.source().as_ref().ok_or(SourceError::Missing(index))?;
    let path = directory.join(source);
    let failed = |source| SourceError::NotThere {
        index,
        path: path.clone(),
        source,
    };
    let path = fs::canonicalize(&path).map_err(failed)?;
    let metadata = fs::metadata(&path).map_err(failed)?;
    let kind = metadata.file_type();
    if kind.is_char_device()
        && let Some(own) = devices::path(metadata.rdev(), nested)
    {
        mount.set_source(Some(own));
        return Ok(None);
    }
    if !kind.is_dir() && !kind.is_file() {
        let kind = if kind.is_socket() {
            "socket"
        } else if kind.is_fifo() {
            "FIFO"
        } else {
            "device"
        };
        return Err(SourceError::Kind { index, path, kind });
    }
    if let Some(kind) = file_systems::not_served_at(&path).map_err(failed)? {
        return Err(SourceError::NotServed { index, path, kind });
    }
    let last = |names: [&str; 2]| {
        let mut given = options.iter().rev().map(String::as_str);
        given.find(|option| names.contains(option))
    };
    let source = Source {
        path,
        is_directory: kind.is_dir(),
        recursive: last(["bind", "rbind"]) == Some("rbind"),
        read_only: last(["ro", "rw"]) == Some("ro") || last(["rro", "rrw"]) == Some("rro"),
        ids: MountIds::of_mount(index, mount, linux)?,
    };
    if source.ids.is_some() {
        let left = options
            .into_iter()
            .filter(|option| !matches!(option.as_str(), "idmap" | "ridmap"));
        mount.set_options(Some(left.collect()));
        mount.set_uid_mappings(None);
        mount.set_gid_mappings(None);
    }
    Ok(Some(source))
}
