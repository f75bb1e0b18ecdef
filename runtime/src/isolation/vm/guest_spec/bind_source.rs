//! The sources of a container's bind mounts, which its guest gets through the share.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use nacre_agent::container::{
    MountIds,
    outside::{Extent, Forbidden, bound_extent},
};
use oci_spec::runtime::{Linux, Mount};

use super::{
    devices, file_systems,
    mount_options::options_of,
    overlay_source::{self, OverlayMount},
    source::{Origin, Source},
    source_error::SourceError,
};

/// What the source of a mount is.
pub(super) enum Taken {
    /// Something that the share must provide.
    Shared(Source),
    /// A device of the guest's, with this number (`st_rdev`).
    Device(u64),
    /// Nothing of the host's.
    None,
}

/// Returns what the source of `mounts[index]` is. What is done about it on this side is taken out of
/// the mount; a device becomes that of the guest, which may be `nested`.
pub(super) fn take(
    directory: &Path,
    index: usize,
    mount: &mut Mount,
    linux: &Linux,
    nested: bool,
) -> Result<Taken, SourceError> {
    if let Some(OverlayMount { overlay, options }) = overlay_source::take(directory, index, mount)?
    {
        return Ok(Taken::Shared(Source {
            origin: Origin::Overlay(overlay),
            is_directory: true,
            recursive: true,
            options,
            ids: None,
        }));
    }
    let options = options_of(mount);
    let Some(extent) = bound_extent(mount) else {
        return Ok(Taken::None);
    };
    if Forbidden::by(&options).remount {
        return Ok(Taken::None);
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
        return Ok(Taken::Device(metadata.rdev()));
    }
    if kind.is_char_device() || kind.is_block_device() {
        return Err(devices::not_bound(index, path, &metadata).into());
    }
    if !kind.is_dir() && !kind.is_file() {
        let kind = if kind.is_socket() { "socket" } else { "FIFO" };
        return Err(SourceError::Kind { index, path, kind });
    }
    if let Some(kind) = file_systems::not_served_at(&path).map_err(failed)? {
        return Err(SourceError::NotServed { index, path, kind });
    }
    let source = Source {
        origin: Origin::Path(path),
        is_directory: kind.is_dir(),
        recursive: extent == Extent::Tree,
        options: options.clone(),
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
    Ok(Taken::Shared(source))
}
