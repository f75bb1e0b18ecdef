//! Device nodes: the default ones
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#default-devices)),
//! and `linux.devices`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, makedev, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

use crate::container::config::devices::Device;
use crate::container::error::{InitError, Step, StepError};
use crate::container::kernel::mount_calls::{Extent, attach, clone_tree};
use crate::container::kernel::safe_path::{self, FileKind};
use crate::container::kernel::{sys, user_namespaces};

const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Makes `devices` below `root`, and the links in `/dev` that go with them. In a user namespace,
/// where no devices can be made, binds the caller's devices of the same paths, with their owner and
/// mode.
pub(crate) fn make(root: BorrowedFd<'_>, devices: &[Device]) -> Result<(), InitError> {
    let open = |path: &Path| {
        safe_path::open_or_make(root, path, FileKind::Directory)
            .step(|| format!("open {} in the container", path.display()))
    };
    let dev = open(Path::new("/dev"))?;
    for device in devices {
        let above = device.path.parent().unwrap_or(Path::new("/"));
        if above == Path::new("/dev") {
            make_device(&dev, device)?;
        } else {
            make_device(&open(above)?, device)?;
        }
    }
    // Only our devpts is a new instance; a ptmx in the image would lead to the caller's.
    match unlinkat(&dev, "ptmx", UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(StepError::new("remove /dev/ptmx", error).into()),
    }
    for (name, target) in LINKS {
        link(&dev, name, target)?;
    }
    if safe_path::open(root, Path::new("/proc/kcore")).is_ok() {
        link(&dev, "core", "/proc/kcore")?;
    }
    Ok(())
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> Result<(), StepError> {
    match symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).step(|| format!("link /dev/{name}")),
    }
}

fn make_device(directory: &OwnedFd, device: &Device) -> Result<(), InitError> {
    let path = || device.path.display();
    let name = device.path.file_name().unwrap_or_default();
    let number = makedev(device.major, device.minor);
    let mode = Mode::from_bits_truncate(device.mode);
    match mknodat(directory.as_fd(), name, device.kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EPERM) => return bind_device(directory, device),
        Err(Errno::EEXIST) => {
            // The image may contain it. It must be the device that it claims to be.
            let there = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .step(|| format!("look at {}", path()))?;
            let kind = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
            // The file to which another container of this image had its device bound.
            if kind == SFlag::S_IFREG && there.st_size == 0 && user_namespaces::in_one() {
                return bind_device(directory, device);
            }
            if !device.is_as(&there) {
                return Err(InitError::NotThatDevice {
                    path: path().to_string(),
                });
            }
            return Ok(());
        }
        Err(error) => {
            return Err(StepError::new(format!("make the device {}", path()), error).into());
        }
    }
    if (device.uid, device.gid) == (0, 0) {
        return Ok(());
    }
    // Whoever can write to the directory may have replaced it since.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(directory, name, flags, Mode::empty())
        .step(|| format!("open the device {}", path()))?;
    let there = fstat(&made).step(|| format!("look at {}", path()))?;
    if !device.is_as(&there) {
        return Err(InitError::NotThatDevice {
            path: path().to_string(),
        });
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    fchownat(&made, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
        .step(|| format!("set the owner of {}", path()))?;
    // After the owner, since changing that clears the set-id bits.
    sys::set_mode(&made, mode).step(|| format!("set the mode of {}", path()))?;
    Ok(())
}

impl Device {
    /// Whether the file that was found is this device.
    fn is_as(&self, found: &FileStat) -> bool {
        let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
        let number = makedev(self.major, self.minor);
        kind == self.kind && (kind == SFlag::S_IFIFO || found.st_rdev == number)
    }
}

/// Binds the caller's device, if it is the right one.
fn bind_device(directory: &OwnedFd, device: &Device) -> Result<(), InitError> {
    let step = || format!("bind the caller's {}", device.path.display());
    let tree = clone_tree(&device.path, Extent::Mount).step(step)?;
    let status = fstat(&tree).step(step)?;
    if !device.is_as(&status) {
        return Err(InitError::NotThatDevice {
            path: format!("the caller's {}", device.path.display()),
        });
    }
    let name = device.path.file_name().unwrap_or_default();
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    match openat(directory, name, made, Mode::from_bits_truncate(0o644)) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(StepError::new(step(), error).into()),
    }
    let target = openat(directory, name, flags | OFlag::O_PATH, Mode::empty()).step(step)?;
    attach(&tree, &target).step(step)?;
    Ok(())
}
