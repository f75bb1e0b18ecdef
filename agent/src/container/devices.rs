//! Device nodes: those that every container gets
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#default-devices)),
//! and `linux.devices`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, makedev, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::config::ConfigError;
use super::error::{InitError, Step};
use super::mounts::{attach, clean};
use super::rootfs::clone_tree;
use super::safe_path::{self, Kind};
use super::{sys, user_namespaces};

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    path: PathBuf,
    kind: SFlag,
    major: u64,
    minor: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Every device of a container: the default ones, unless `asked_for` has another of that
/// path, and `asked_for`.
pub(super) fn list(asked_for: &[LinuxDevice]) -> Result<Vec<Device>, ConfigError> {
    let asked_for = asked_for
        .iter()
        .enumerate()
        .map(|(index, device)| parse(index, device))
        .collect::<Result<Vec<Device>, _>>()?;
    let mut devices: Vec<Device> = DEFAULT
        .iter()
        .map(|&(path, major, minor)| Device {
            path: path.into(),
            kind: SFlag::S_IFCHR,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .filter(|default| asked_for.iter().all(|device| device.path != default.path))
        .collect();
    devices.extend(asked_for);
    Ok(devices)
}

fn parse(index: usize, device: &LinuxDevice) -> Result<Device, ConfigError> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let number = |name: &str, value: i64, bits: u32| {
        u64::try_from(value)
            .ok()
            .filter(|n| n >> bits == 0)
            .ok_or_else(|| {
                ConfigError::invalid(field(name), format!("{value} isn't a device number"))
            })
    };
    if !device.path().is_absolute() {
        let problem = format!("{:?} isn't absolute", device.path());
        return Err(ConfigError::invalid(field("path"), problem));
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => {
            let problem = "\"a\" stands for all types, but a device has one";
            return Err(ConfigError::invalid(field("type"), problem));
        }
    };
    let (major, minor) = match kind {
        SFlag::S_IFIFO => (0, 0),
        // The kernel keeps 12 and 20 bits.
        _ => (
            number("major", device.major(), 12)?,
            number("minor", device.minor(), 20)?,
        ),
    };
    Ok(Device {
        path: clean(device.path()),
        kind,
        major,
        minor,
        // Some clients put the type's bits in too.
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Makes `devices` below `root`, and the links in `/dev` that go with them. Where none can be
/// made, in a user namespace, those are bound that the caller has at the same path: with their
/// owner and mode.
pub(super) fn make(root: BorrowedFd<'_>, devices: &[Device]) -> Result<(), InitError> {
    let open = |path: &Path| {
        safe_path::open_or_make(root, path, Kind::Directory)
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
    // Only ours is a new instance; one in the image would lead to the caller's.
    match unlinkat(&dev, "ptmx", UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error).step(|| "remove /dev/ptmx"),
    }
    for (name, target) in LINKS {
        link(&dev, name, target)?;
    }
    if safe_path::open(root, Path::new("/proc/kcore")).is_ok() {
        link(&dev, "core", "/proc/kcore")?;
    }
    Ok(())
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> Result<(), InitError> {
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
            // An image may bring it along. It must be what it claims to be.
            let there = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .step(|| format!("look at {}", path()))?;
            let kind = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
            // What another container of this image had its device bound to.
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
        Err(error) => return Err(error).step(|| format!("make the device {}", path())),
    }
    if (device.uid, device.gid) == (0, 0) {
        return Ok(());
    }
    // Whoever can write to the directory may have put something else there since.
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
    // Which clears the set-id bits.
    sys::set_mode(&made, mode).step(|| format!("set the mode of {}", path()))
}

impl Device {
    /// Whether what was found is this device.
    fn is_as(&self, found: &FileStat) -> bool {
        let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
        let number = makedev(self.major, self.minor);
        kind == self.kind && (kind == SFlag::S_IFIFO || found.st_rdev == number)
    }
}

/// Binds the caller's device, if it is what it should be.
fn bind_device(directory: &OwnedFd, device: &Device) -> Result<(), InitError> {
    let step = || format!("bind the caller's {}", device.path.display());
    let tree = clone_tree(&device.path, false).step(step)?;
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
        Err(error) => return Err(error).step(step),
    }
    let target = openat(directory, name, flags | OFlag::O_PATH, Mode::empty()).step(step)?;
    attach(&tree, &target).step(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_of(json: &str) -> Result<Vec<Device>, String> {
        let devices: Vec<LinuxDevice> = serde_json::from_str(json).unwrap();
        list(&devices).map_err(|e| e.to_string())
    }

    #[test]
    fn a_container_has_the_default_devices_and_its_own() {
        let devices = list_of(
            r#"[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 33188, "gid": 5}]"#,
        )
        .unwrap();
        assert_eq!(devices.len(), DEFAULT.len() + 1);
        let fuse = devices.last().unwrap();
        assert_eq!((fuse.mode, fuse.uid, fuse.gid), (0o644, 0, 5));
    }

    #[test]
    fn one_that_is_asked_for_replaces_a_default_one() {
        let devices =
            list_of(r#"[{"path": "/dev/./null", "type": "c", "major": 1, "minor": 5}]"#).unwrap();
        assert_eq!(devices.len(), DEFAULT.len());
        assert_eq!(devices.last().unwrap().minor, 5);
    }

    #[test]
    fn what_is_no_device_is_refused_by_name() {
        for (json, error) in [
            (
                r#"[{"path": "dev/x", "type": "c"}]"#,
                "linux.devices[0].path: \"dev/x\" isn't absolute",
            ),
            (
                r#"[{"path": "/dev/x", "type": "a"}]"#,
                "linux.devices[0].type: \"a\" stands for all types, but a device has one",
            ),
            (
                r#"[{"path": "/dev/x", "type": "b", "major": -1}]"#,
                "linux.devices[0].major: -1 isn't a device number",
            ),
            (
                r#"[{"path": "/dev/x", "type": "b", "major": 1, "minor": 1048576}]"#,
                "linux.devices[0].minor: 1048576 isn't a device number",
            ),
        ] {
            assert_eq!(list_of(json).unwrap_err(), error);
        }
    }
}
