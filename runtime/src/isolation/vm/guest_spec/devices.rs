//! The devices that a guest has for its container. A number names the same device in every kernel
//! only where it was assigned ([devices.txt](https://docs.kernel.org/admin-guide/devices.html)),
//! and a guest has few of those. Any other number of the host's names nothing there, or another
//! device.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

/// Character devices, with their names in the guest's `/dev`.
const CHARACTER: [(i64, i64, &str); 12] = [
    (1, 3, "null"),
    (1, 5, "zero"),
    (1, 7, "full"),
    (1, 8, "random"),
    (1, 9, "urandom"),
    (1, 11, "kmsg"),
    (5, 0, "tty"),
    (5, 1, "console"),
    (5, 2, "ptmx"),
    (10, 200, "net/tun"),
    (10, 229, "fuse"),
    (10, 237, "loop-control"),
];

/// The device that a guest has if it is nested.
const KVM: (i64, i64, &str) = (10, 232, "kvm");

/// The block devices of `loop-control`.
const LOOP: i64 = 7;

/// A device of the host that the container was to have.
#[derive(Debug, thiserror::Error)]
#[error(
    "linux.devices[{index}]: {path} ({kind} {major}:{minor}) is a device of the host, which a VM \
     doesn't have; leave it out (--device; for --privileged, --cap-add=all with --security-opt \
     gives the rights){}",
    if (*.major, *.minor) == (KVM.0, KVM.1) { "; the annotation dev.nacre.vm.nested gives the \
     guest's own /dev/kvm" } else { "" }
)]
pub(crate) struct NoSuchDevice {
    index: usize,
    path: PathBuf,
    kind: &'static str,
    major: i64,
    minor: i64,
}

/// Refuses the first of `linux.devices` that a guest, `nested` or not, doesn't have.
pub(super) fn check(devices: &[LinuxDevice], nested: bool) -> Result<(), NoSuchDevice> {
    for (index, device) in devices.iter().enumerate() {
        let (major, minor) = (device.major(), device.minor());
        let kind = match device.typ() {
            LinuxDeviceType::B if major == LOOP => continue,
            LinuxDeviceType::B => "block",
            LinuxDeviceType::C | LinuxDeviceType::U if name(major, minor, nested).is_none() => {
                "character"
            }
            // Made by name, or for the engine to refuse.
            _ => continue,
        };
        return Err(NoSuchDevice {
            index,
            path: device.path().clone(),
            kind,
            major,
            minor,
        });
    }
    Ok(())
}

/// Returns where the guest has the character device with this number (`st_rdev`) on the host.
pub(super) fn path(number: u64, nested: bool) -> Option<PathBuf> {
    let name = name(
        i64::from(libc::major(number)),
        i64::from(libc::minor(number)),
        nested,
    );
    Some(Path::new("/dev").join(name?))
}

fn name(major: i64, minor: i64, nested: bool) -> Option<&'static str> {
    let kvm = nested.then_some(&KVM);
    let mut devices = CHARACTER.iter().chain(kvm);
    let device = devices.find(|device| (device.0, device.1) == (major, minor));
    device.map(|(_, _, name)| *name)
}
