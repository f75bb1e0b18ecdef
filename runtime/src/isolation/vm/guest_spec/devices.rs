//! The devices that a guest has for its container. A number names the same device in every kernel
//! only where it was assigned ([devices.txt](https://docs.kernel.org/admin-guide/devices.html)),
//! and a guest has few of those. Any other number of the host's names nothing there, or another
//! device.

use std::{
    fs::Metadata,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

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
    "{field}: {path} ({kind} {major}:{minor}) is a device of the host, which a VM \
     doesn't have; leave it out (--device; for --privileged, --cap-add=all with --security-opt \
     gives the rights){}",
    if (*.major, *.minor) == (KVM.0, KVM.1) { "; the annotation dev.nacre.vm.nested gives the \
     guest's own /dev/kvm" } else { "" }
)]
pub(crate) struct NoSuchDevice {
    /// What names it in `config.json`.
    field: String,
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
            field: format!("linux.devices[{index}]"),
            path: device.path().clone(),
            kind,
            major,
            minor,
        });
    }
    Ok(())
}

/// Lets a container use the character devices with these numbers, which its mounts bind. Podman without
/// root binds a device and leaves it out of the rules, which no host enforces on an ordinary user's
/// container: only root can attach them.
pub(super) fn allow(resources: &mut LinuxResources, numbers: &[u64]) {
    let rules = numbers.iter().map(|&number| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(LinuxDeviceType::C))
            .set_major(Some(i64::from(libc::major(number))))
            .set_minor(Some(i64::from(libc::minor(number))))
            .set_access(Some("rwm".to_owned()));
        rule
    });
    let mut all = resources.devices().clone().unwrap_or_default();
    all.extend(rules);
    resources.set_devices(Some(all));
}

/// Says that a guest doesn't have a device that `mounts[index]` binds, as Podman without root binds
/// those that a container is to have.
pub(super) fn not_bound(index: usize, path: PathBuf, device: &Metadata) -> NoSuchDevice {
    NoSuchDevice {
        field: format!("mounts[{index}].source"),
        path,
        kind: if device.file_type().is_block_device() {
            "block"
        } else {
            "character"
        },
        major: i64::from(libc::major(device.rdev())),
        minor: i64::from(libc::minor(device.rdev())),
    }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn bound_devices_are_let_through_after_the_other_rules() {
        let denied = serde_json::json!({"devices": [{"allow": false, "access": "rwm"}]});
        let mut resources = serde_json::from_value(denied).unwrap();
        allow(&mut resources, &[libc::makedev(10, 229)]);
        let rules = serde_json::to_value(resources).unwrap()["devices"].clone();
        let expected = serde_json::json!(
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
        );
        assert_eq!(rules.as_array().map(Vec::len), Some(2));
        assert_eq!(rules[1], expected);
    }

    #[test]
    fn a_device_that_is_bound_has_its_number_in_the_refusal() {
        let path = PathBuf::from("/dev/null");
        let device = fs::metadata(&path).unwrap();
        let refusal = not_bound(3, path, &device).to_string();
        let expected = "mounts[3].source: /dev/null (character 1:3) is a device of the host, which a VM \
             doesn't have; leave it out (--device; ";
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}
