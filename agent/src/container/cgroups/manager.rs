//! Who makes a container's cgroup: the engine by itself, or systemd at its request.

use std::io;
use std::path::Path;

use nix::unistd::geteuid;
use oci_spec::runtime::LinuxResources;

use super::path::cgroup_path;
use super::resources::{Settings, Versions};
use super::systemd::{self, Holder, Units};
use super::{Cgroup, CgroupError};
use crate::container::user_namespaces;

/// Who makes a container's cgroup.
#[derive(Debug, Clone, Copy, Default)]
pub enum Manager<'a> {
    /// The engine, through the files of the cgroup file systems.
    #[default]
    Files,
    /// systemd, which then has the container as one of its units.
    Systemd(&'a dyn Units),
}

/// A cgroup that was made.
#[derive(Debug)]
pub(in crate::container) struct Made {
    pub(in crate::container) cgroup: Cgroup,
    /// To be kept until a process of the container is in it.
    pub(in crate::container) holder: Option<Holder>,
}

impl Manager<'_> {
    /// Makes the cgroup of a container: what `linux.cgroupsPath` names, or one of its id.
    ///
    /// None is made, and none is needed, if nothing was asked for that takes one: without a cgroup
    /// file system, or for an ordinary user who may make no cgroups here. Such a user's containers
    /// have the devices that they were given and can't make others, so that rules for devices are
    /// nothing that was asked for.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::create`]; [`CgroupError::NoRights`] names the limit that takes a cgroup.
    pub(in crate::container) fn create(
        self,
        path: Option<&Path>,
        id: &str,
        resources: Option<&LinuxResources>,
    ) -> Result<Option<Made>, CgroupError> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let cgroup = match self {
            Manager::Files => Cgroup::create(&cgroup_path(path, id)?, resources),
            Manager::Systemd(units) => {
                let (cgroup, holder) = systemd::create(units, path, id, resources)?;
                let holder = Some(holder);
                return Ok(Some(Made { cgroup, holder }));
            }
        };
        match cgroup {
            Ok(cgroup) => Ok(Some(Made {
                cgroup,
                holder: None,
            })),
            Err(CgroupError::NotMounted) if path.is_none() && resources.is_none() => Ok(None),
            Err(CgroupError::Directory {
                path: directory,
                source,
                ..
            }) if is_refusal(&source) && is_ordinary_user() => match wish(path, resources)? {
                None => Ok(None),
                Some(field) => Err(CgroupError::NoRights {
                    field,
                    directory,
                    source,
                }),
            },
            Err(error) => Err(error),
        }
    }
}

/// The field that asks for a cgroup.
fn wish(
    path: Option<&Path>,
    resources: Option<&LinuxResources>,
) -> Result<Option<String>, CgroupError> {
    if path.is_some() {
        return Ok(Some("cgroupsPath".to_owned()));
    }
    let Some(resources) = resources else {
        return Ok(None);
    };
    let settings = Settings::new(resources, &Versions::all_v2())
        .or_else(|_| Settings::new(resources, &Versions::all_v1()))?;
    let first = settings.v1.into_iter().chain(settings.v2).next();
    Ok(first.map(|setting| format!("resources.{}", setting.field)))
}

pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EACCES | libc::EPERM | libc::EROFS)
    )
}

/// Whether this process lacks the rights of the host's root: it is another user, or root of a user
/// namespace only. It can't make device nodes then.
pub(super) fn is_ordinary_user() -> bool {
    !geteuid().is_root() || user_namespaces::in_one()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_a_cgroup_is_named() {
        for (path, json, expected) in [
            (None, None, None),
            (None, Some("{}"), None),
            (None, Some(r#"{"devices": [{"allow": false}]}"#), None),
            (Some("/a"), None, Some("cgroupsPath")),
            (
                None,
                Some(r#"{"memory": {"limit": 4096}}"#),
                Some("resources.memory.limit"),
            ),
            (
                None,
                Some(r#"{"memory": {"swappiness": 3}}"#),
                Some("resources.memory.swappiness"),
            ),
        ] {
            let resources = json.map(|json| serde_json::from_str::<LinuxResources>(json).unwrap());
            let got = wish(path.map(Path::new), resources.as_ref()).unwrap();
            assert_eq!(got.as_deref(), expected, "{json:?}");
        }
    }
}
