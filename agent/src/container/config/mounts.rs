//! Parses `mounts`
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config.md#mounts)).

use std::path::{Path, PathBuf};

use oci_spec::runtime::Linux;

use super::error::ConfigError;
use super::mount_ids::MountIds;
use super::mount_options::MountOptions;
use crate::container::kernel::mount_calls::Extent;
use crate::container::kernel::safe_path::clean;

/// A checked entry of `mounts`.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) index: usize,
    /// Absolute, without `.` and `..`.
    pub(crate) destination: PathBuf,
    pub(crate) kind: MountKind,
    pub(crate) options: MountOptions,
    /// How the owners of its files are mapped.
    pub(crate) ids: Option<MountIds>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// What is mounted at the destination already gets other options.
    Remount,
    /// A file or directory of the caller's.
    Bind { source: PathBuf, extent: Extent },
    /// A new file system. Its source may be empty.
    FileSystem { name: String, source: PathBuf },
}

impl Mount {
    /// Parses `mounts[index]`.
    pub(crate) fn parse(
        index: usize,
        mount: &oci_spec::runtime::Mount,
    ) -> Result<Self, ConfigError> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let name = mount.typ().as_deref().unwrap_or_default();
        // Docker and Podman write either "bind" or "none", with the option.
        let bind_type = name == "bind";
        let options =
            MountOptions::parse(mount.options().as_deref().unwrap_or_default(), bind_type)
                .map_err(|e| ConfigError::invalid(field("options"), e.to_string()))?;
        let source = mount.source().clone().unwrap_or_default();
        if options.copy_up && name != "tmpfs" {
            let problem = "mount option \"tmpcopyup\" is for a tmpfs only";
            return Err(ConfigError::invalid(field("options"), problem));
        }
        let kind = match options.bind {
            _ if options.remount => MountKind::Remount,
            Some(_) if source.as_os_str().is_empty() => {
                return Err(ConfigError::missing(field("source")));
            }
            Some(extent) => MountKind::Bind { source, extent },
            None if matches!(name, "" | "none") => return Err(ConfigError::missing(field("type"))),
            None => MountKind::FileSystem {
                name: name.to_owned(),
                source,
            },
        };
        let ids = MountIds::parse(index, mount, options.id_mapped)?;
        if ids.is_some() && !matches!(kind, MountKind::Bind { .. }) {
            let problem = "ids can be mapped on bind mounts only";
            return Err(ConfigError::invalid(field("uidMappings"), problem));
        }
        let destination = mount.destination();
        if destination.as_os_str().is_empty() {
            return Err(ConfigError::missing(field("destination")));
        }
        // The spec requires an absolute path; runc takes a relative one as relative to the root.
        let destination = clean(destination);
        if destination == Path::new("/") {
            let problem = "the root can't be mounted over";
            return Err(ConfigError::invalid(field("destination"), problem));
        }
        Ok(Mount {
            index,
            destination,
            kind,
            options,
            ids,
        })
    }

    /// Checks that there are mappings if its owners are to be mapped.
    pub(crate) fn validate_ids(&self, linux: &Linux) -> Result<(), ConfigError> {
        let ids = self.ids.as_ref();
        ids.map_or(Ok(()), |ids| ids.validate(self.index, linux))
    }

    /// Whether it is a new file system of this name.
    pub(crate) fn is_new(&self, file_system: &str) -> bool {
        matches!(&self.kind, MountKind::FileSystem { name, .. } if name == file_system)
    }

    /// Whether programs rely on it to show what the kernel says.
    pub(crate) fn is_kernels(&self) -> bool {
        self.is_new("proc")
            || self.is_new("sysfs")
            || self.destination == Path::new("/proc")
            || self.destination == Path::new("/sys")
    }

    /// Whether it binds a directory of the caller's in place of `/dev`.
    pub(crate) fn is_bind_of_dev(&self) -> bool {
        matches!(self.kind, MountKind::Bind { .. }) && self.destination == Path::new("/dev")
    }

    /// Returns the options that have no effect on it, as text.
    pub(crate) fn without_effect(&self) -> Option<String> {
        let options = &self.options.without_effect;
        (!options.is_empty()).then(|| options.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Mount, String> {
        let mount: oci_spec::runtime::Mount = serde_json::from_str(json).unwrap();
        Mount::parse(3, &mount).map_err(|e| e.to_string())
    }

    #[test]
    fn bind_mounts_are_known_by_type_or_option() {
        for json in [
            r#"{"destination": "/dev", "type": "bind", "source": "/x"}"#,
            r#"{"destination": "/dev", "source": "/x", "options": ["rbind"]}"#,
            r#"{"destination": "dev/.", "type": "none", "source": "/x", "options": ["bind"]}"#,
        ] {
            assert!(parse(json).unwrap().is_bind_of_dev(), "{json}");
        }
        let tmpfs = parse(r#"{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}"#);
        assert!(!tmpfs.unwrap().is_bind_of_dev());
    }

    #[test]
    fn errors_name_the_field() {
        for (json, error) in [
            (
                r#"{"destination": "/a", "type": "bind"}"#,
                "mounts[3].source is missing",
            ),
            (r#"{"destination": "/a"}"#, "mounts[3].type is missing"),
            (
                r#"{"destination": "", "type": "proc"}"#,
                "mounts[3].destination is missing",
            ),
            (
                r#"{"destination": "/a/..", "type": "tmpfs"}"#,
                "mounts[3].destination: the root can't be mounted over",
            ),
            (
                r#"{"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}"#,
                "mounts[3].options: mount option \"tmpcopyup\" is for a tmpfs only",
            ),
            (
                r#"{"destination": "/a", "type": "bind", "source": "/x", "uidMappings": [{"hostID": 0, "containerID": 0, "size": 1}]}"#,
                "mounts[3].gidMappings is missing",
            ),
            (
                r#"{"destination": "/a", "type": "tmpfs", "uidMappings": [{"hostID": 0, "containerID": 0, "size": 1}],
                    "gidMappings": [{"hostID": 0, "containerID": 0, "size": 1}]}"#,
                "mounts[3].uidMappings: ids can be mapped on bind mounts only",
            ),
        ] {
            assert_eq!(parse(json).unwrap_err(), error);
        }
    }
}
