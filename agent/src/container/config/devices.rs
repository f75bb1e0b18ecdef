//! Parses `linux.devices`, and adds the default devices
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#default-devices)).

use std::path::PathBuf;

use nix::sys::stat::SFlag;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::error::ConfigError;
use crate::container::kernel::safe_path::clean;

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) path: PathBuf,
    pub(crate) kind: SFlag,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Returns all devices of a container: `asked_for`, and the default ones whose path isn't among
/// them.
pub(crate) fn list(asked_for: &[LinuxDevice]) -> Result<Vec<Device>, ConfigError> {
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
        // The kernel has 12 and 20 bits for them.
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
        // Some clients include the bits of the file type.
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
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
