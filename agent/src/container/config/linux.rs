//! Checks `linux`, as far as that needs no access to the system.

use std::path::Path;

use oci_spec::runtime::Linux;

use super::devices::{self, Device};
use super::error::ConfigError;
use super::memory_policy::{self, MemoryPolicy};
use super::namespaces::has_namespace;
use super::propagation::Propagation;
use super::seccomp::Profile;
use super::wanted::{refuse, some};
use super::{id_map, net_devices, sysctl, time_offsets};
use crate::container::cgroups::{self, Cgroup};
use crate::container::kernel::safe_path::clean;

/// A checked `linux`.
#[derive(Debug)]
pub(crate) struct LinuxConfig<'a> {
    /// All of it. What has no field here needs no parsing.
    pub(crate) linux: &'a Linux,
    pub(crate) devices: Vec<Device>,
    pub(crate) propagation: Propagation,
    pub(crate) memory_policy: Option<MemoryPolicy>,
    pub(crate) seccomp: Option<Profile<'a>>,
}

impl<'a> LinuxConfig<'a> {
    /// Parses it.
    pub(super) fn parse(linux: &'a Linux) -> Result<Self, ConfigError> {
        refuse([("linux.intelRdt", linux.intel_rdt().is_some())])?;
        let memory_policy = linux.memory_policy().as_ref().map(memory_policy::parse);
        let memory_policy = memory_policy.transpose()?;
        if linux
            .personality()
            .as_ref()
            .is_some_and(|p| some(p.flags()))
        {
            let problem = "the runtime spec has no flag that could be set";
            return Err(ConfigError::invalid("linux.personality.flags", problem));
        }
        let seccomp = linux.seccomp().as_ref().map(Profile::parse).transpose()?;
        net_devices::validate(linux)?;
        namespace_list(linux)?;
        id_map::validate(linux)?;
        time_offsets::validate_time_offsets(linux)?;
        let devices = devices::list(linux.devices().as_deref().unwrap_or_default())?;
        let value = linux.rootfs_propagation().as_deref().unwrap_or_default();
        let propagation = Propagation::parse(value).ok_or_else(|| {
            let problem = format!("{value:?} isn't private, slave, shared or unbindable");
            ConfigError::invalid("linux.rootfsPropagation", problem)
        })?;
        for (field, paths) in [
            ("linux.maskedPaths", linux.masked_paths()),
            ("linux.readonlyPaths", linux.readonly_paths()),
        ] {
            for (index, path) in paths.iter().flatten().enumerate() {
                let problem = if !Path::new(path).is_absolute() {
                    "isn't absolute"
                } else if clean(Path::new(path)) == Path::new("/") {
                    "is the root"
                } else {
                    continue;
                };
                return Err(ConfigError::invalid(
                    format!("{field}[{index}]"),
                    format!("{path:?} {problem}"),
                ));
            }
        }
        if let Some(resources) = linux.resources() {
            Cgroup::validate(resources)?;
        }
        if let Some(path) = linux
            .cgroups_path()
            .as_ref()
            .filter(|p| !p.as_os_str().is_empty())
        {
            cgroups::cgroup_path(Some(path), "")?;
        }
        Ok(LinuxConfig {
            linux,
            devices,
            propagation,
            memory_policy,
            seccomp,
        })
    }
}

fn namespace_list(linux: &Linux) -> Result<(), ConfigError> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    for (index, namespace) in namespaces.iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        let kind = namespace.typ();
        if namespaces.iter().take(index).any(|n| n.typ() == kind) {
            return Err(ConfigError::invalid(
                field,
                format!("there are two {kind} namespaces"),
            ));
        }
        let path = namespace.path().as_ref();
        let path = path.filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = path
            && !path.is_absolute()
        {
            let problem = format!("{path:?} isn't absolute");
            return Err(ConfigError::invalid(format!("{field}.path"), problem));
        }
    }
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        let field = || format!("linux.sysctl.{name}");
        match sysctl::namespace(name) {
            Some(kind) if has_namespace(linux, kind) => {}
            Some(kind) => {
                let problem = format!("it needs a {kind} namespace, which the container lacks");
                return Err(ConfigError::invalid(field(), problem));
            }
            None => {
                let problem = "it isn't a parameter of a namespace, but of the whole kernel";
                return Err(ConfigError::invalid(field(), problem));
            }
        }
    }
    Ok(())
}
