//! The directory that is shared with the guest: a tmpfs in a mount namespace of the sandbox
//! process's own, with the container's root mounted on `rootfs` and the sources of its bind
//! mounts on `mounts/N`. No other process sees any of these mounts, and they go with the
//! sandbox process.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::guest_spec::{Shared, Source};

/// Why the share could not be assembled.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct ShareError {
    what: String,
    #[source]
    source: io::Error,
}

/// The share, mounted.
#[derive(Debug)]
pub(super) struct Share {
    path: PathBuf,
    make_root_read_only: bool,
}

impl Share {
    /// Moves this process into a mount namespace of its own and assembles the share at `path`
    /// in it. The process must have a single thread.
    pub(super) fn assemble(path: PathBuf, shared: &Shared) -> Result<Self, ShareError> {
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed("can't make a mount namespace"))?;
        // The host sees none of the mounts below; what the host unmounts is unmounted here
        // too, so that a container doesn't keep it busy.
        let nothing = None::<&str>;
        let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        mount(nothing, "/", nothing, flags, nothing)
            .map_err(failed("can't make this mount namespace's mounts its own"))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("nacre"),
            &path,
            Some("tmpfs"),
            flags,
            Some("mode=0755,size=1m"),
        )
        .map_err(failed("can't mount a tmpfs for what the guest shares"))?;

        let root = Source {
            path: shared.root.clone(),
            is_directory: true,
            recursive: true,
            // Mount points may have to be made in it first.
            read_only: false,
        };
        bind(&root, &path.join("rootfs"))?;
        let mounts = path.join("mounts");
        fs::create_dir(&mounts).map_err(failed("can't make a directory on a tmpfs"))?;
        for (index, source) in shared.binds.iter().enumerate() {
            bind(source, &mounts.join(index.to_string()))?;
        }
        // From now on what the host mounts below these stays out.
        let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(nothing, &path, nothing, flags, nothing)
            .map_err(failed("can't make the share private"))?;
        set_read_only(&path, false)?;
        Ok(Self {
            path,
            make_root_read_only: shared.root_is_read_only,
        })
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The container has been made, and with it the mount points that its root lacked: a root
    /// that is to be read-only is so on this side too from now on.
    pub(super) fn seal_root(&self) -> Result<(), ShareError> {
        if self.make_root_read_only {
            set_read_only(&self.path.join("rootfs"), true)?;
        }
        Ok(())
    }

    /// Unmounts it, so that the directory that it is mounted on can be removed.
    pub(super) fn unmount(self) -> Result<(), ShareError> {
        umount2(&self.path, MntFlags::MNT_DETACH).map_err(failed("can't unmount the share"))
    }
}

fn bind(source: &Source, target: &Path) -> Result<(), ShareError> {
    let what = || format!("can't share {} with the guest", source.path.display());
    if source.is_directory {
        fs::create_dir(target).map_err(failed(what()))?;
    } else {
        File::create(target).map_err(failed(what()))?;
    }
    let mut flags = MsFlags::MS_BIND;
    flags.set(MsFlags::MS_REC, source.recursive);
    let nothing = None::<&str>;
    mount(Some(&source.path), target, nothing, flags, nothing).map_err(failed(what()))?;
    if source.read_only {
        // All of it: the guest sees one file system and no mounts below it.
        set_read_only(target, true)?;
    }
    Ok(())
}

/// Makes a mount read-only, and those below it as well if `recursive`.
fn set_read_only(path: &Path, recursive: bool) -> Result<(), ShareError> {
    let failed = failed(format!("can't make {} read-only", path.display()));
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path is a C string and attributes of the size that is given; neither is kept.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(failed(io::Error::last_os_error())),
    }
}

fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> ShareError {
    let what = what.into();
    move |source| ShareError {
        what,
        source: source.into(),
    }
}
