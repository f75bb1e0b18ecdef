//! The makers of a container's cgroup: the engine by itself, or systemd at its request.

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::error::is_refusal;
use super::path::cgroup_path;
use super::resources::{Settings, Versions};
use super::systemd::{self, Holder, Units};
use super::{Cgroup, CgroupError};
use crate::container::kernel::user_namespaces::is_ordinary_user;

/// What makes a container's cgroup.
#[derive(Debug, Clone, Copy, Default)]
pub enum Manager<'a> {
    /// The engine, through the files of the cgroup file systems.
    #[default]
    Files,
    /// systemd, for which the container is then one of its units.
    Systemd(&'a dyn Units),
}

/// A cgroup that was made.
#[derive(Debug)]
pub(crate) struct NewCgroup {
    pub(crate) cgroup: Cgroup,
    /// To be kept until a process of the container is in the cgroup.
    pub(crate) holder: Option<Holder>,
}

impl Manager<'_> {
    /// Makes a container's cgroup: the one that `linux.cgroupsPath` names, or one of its id.
    ///
    /// Makes none without a cgroup file system, or for an ordinary user who may make no cgroups
    /// here, if nothing was asked for that needs one. Such a user's containers have the devices
    /// that they were given and can't make others, so device rules don't need one.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::create`]; [`CgroupError::NoRights`] names the limit that needs a cgroup.
    ///
    /// # Safety
    ///
    /// This process must have a single thread: a scope of systemd is kept open by a fork of it.
    pub(crate) unsafe fn create(
        self,
        path: Option<&Path>,
        id: &str,
        resources: Option<&LinuxResources>,
    ) -> Result<Option<NewCgroup>, CgroupError> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let cgroup = match self {
            Manager::Files => Cgroup::create(&cgroup_path(path, id)?, resources),
            Manager::Systemd(units) => {
                // SAFETY: the caller's promise.
                let (cgroup, holder) = unsafe { systemd::create(units, path, id, resources) }?;
                let holder = Some(holder);
                return Ok(Some(NewCgroup { cgroup, holder }));
            }
        };
        match cgroup {
            Ok(cgroup) => Ok(Some(NewCgroup {
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

/// Returns the field that asks for a cgroup.
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
    let settings = Settings::new(resources, &Versions::V2)
        .or_else(|_| Settings::new(resources, &Versions::V1))?;
    let first = settings.v1.into_iter().chain(settings.v2).next();
    Ok(first.map(|setting| format!("resources.{}", setting.field)))
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
