//! Checks that need no access to the system.
//!
//! A field that the engine doesn't honour is refused by name, unless its value asks for nothing.
//! Properties that the spec doesn't have are ignored, as it demands.

use oci_spec::runtime::{Linux, LinuxNamespaceType, Root, Spec};

use super::error::ConfigError;
use super::linux::LinuxConfig;
use super::mounts::Mount;
use super::namespaces::{has_namespace, has_new_namespace};
use super::process::ProcessConfig;
use super::wanted::{elsewhere, refuse, says, some};
use super::{hooks, id_map, sysctl};

/// The newest 1.x of the runtime spec of which every field is known here, even if some are refused
/// by name.
const NEWEST_MINOR: u64 = 3;

/// The kernel's limit on host and domain names, in bytes.
const MAX_HOSTNAME: usize = 64;

/// Checks everything about `spec` that can be checked without touching the system.
///
/// # Errors
///
/// See [`ConfigError`]; it has the path of the field.
pub fn validate(spec: &Spec) -> Result<(), ConfigError> {
    ContainerConfig::parse(spec).map(drop)
}

/// A checked configuration: what everything after the loading takes.
#[derive(Debug)]
pub(crate) struct ContainerConfig<'a> {
    /// All of it. What has no field here needs no parsing.
    pub(crate) spec: &'a Spec,
    pub(crate) root: &'a Root,
    pub(crate) process: ProcessConfig<'a>,
    pub(crate) linux: LinuxConfig<'a>,
    pub(crate) mounts: Vec<Mount>,
}

impl<'a> ContainerConfig<'a> {
    /// Checks everything about `spec` that can be checked without touching the system.
    pub(crate) fn parse(spec: &'a Spec) -> Result<Self, ConfigError> {
        version(spec.version())?;
        let root = spec.root().as_ref().ok_or(missing("root"))?;
        if root.path().as_os_str().is_empty() {
            return Err(missing("root.path"));
        }
        let linux = spec.linux().as_ref().ok_or(missing("linux"))?;
        let process = spec.process().as_ref().ok_or(missing("process"))?;
        let process_config = ProcessConfig::parse(process)?;
        let mut mounts = Vec::new();
        for (index, mount) in spec.mounts().iter().flatten().enumerate() {
            let mount = Mount::parse(index, mount)?;
            mount.validate_ids(linux)?;
            mounts.push(mount);
        }
        refuse([("vm", spec.vm().is_some())])?;
        elsewhere([
            ("solaris", spec.solaris().is_some()),
            ("windows", spec.windows().is_some()),
            ("zos", spec.zos().is_some()),
        ])?;
        if let Some(list) = spec.hooks() {
            hooks::validate(list)?;
        }
        let linux_config = LinuxConfig::parse(linux)?;
        id_map::validate_user(linux, process)?;
        if !has_new_namespace(linux, LinuxNamespaceType::Mount) {
            without_mount_namespace(spec, linux)?;
        }
        names(spec)?;
        Ok(ContainerConfig {
            spec,
            root,
            process: process_config,
            linux: linux_config,
            mounts,
        })
    }
}

fn missing(field: &str) -> ConfigError {
    ConfigError::missing(field)
}

/// Checks the spec's version. Within a major version, an implementation of 1.2 knows all that 1.1
/// may ask for (and not the other way round).
fn version(version: &str) -> Result<(), ConfigError> {
    if version.is_empty() {
        return Err(missing("ociVersion"));
    }
    // Semantic versioning: numbers, optionally followed by `-rc1` or `+dev`.
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = numbers.split('.').map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [Some(1), Some(minor), Some(_)] if minor <= NEWEST_MINOR => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(ConfigError::invalid(
            "ociVersion",
            format!("{version:?} isn't known here, only 1.0 to 1.{NEWEST_MINOR} are"),
        )),
        _ => Err(ConfigError::invalid(
            "ociVersion",
            format!("{version:?} isn't a version (such as 1.2.0)"),
        )),
    }
}

/// Refuses what would be mounted, or changed permanently, in a mount namespace of others.
fn without_mount_namespace(spec: &Spec, linux: &Linux) -> Result<(), ConfigError> {
    let readonly = spec.root().as_ref().and_then(|root| root.readonly());
    for (field, asks) in [
        ("mounts", some(spec.mounts())),
        ("root.readonly", readonly == Some(true)),
        ("linux.maskedPaths", some(linux.masked_paths())),
        ("linux.readonlyPaths", some(linux.readonly_paths())),
        ("linux.rootfsPropagation", says(linux.rootfs_propagation())),
        ("linux.devices", some(linux.devices())),
    ] {
        if asks {
            let problem = "it needs a new mount namespace, which the container lacks";
            return Err(ConfigError::invalid(field, problem));
        }
    }
    Ok(())
}

fn names(spec: &Spec) -> Result<(), ConfigError> {
    let linux = spec.linux().as_ref();
    let has_uts = linux.is_some_and(|linux| has_namespace(linux, LinuxNamespaceType::Uts));
    let sysctls = linux.and_then(|linux| linux.sysctl().as_ref());
    for (field, name) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !has_uts {
            let problem = "it needs a uts namespace, which the container lacks";
            return Err(ConfigError::invalid(field, problem));
        }
        if name.len() > MAX_HOSTNAME {
            let problem = format!(
                "{} bytes are over the kernel's limit of {MAX_HOSTNAME}",
                name.len()
            );
            return Err(ConfigError::invalid(field, problem));
        }
        let mut sysctls = sysctls.into_iter().flatten();
        if let Some((sysctl, value)) =
            sysctls.find(|(sysctl, value)| sysctl::sets(sysctl, field) && *value != name)
        {
            let problem = format!("{value:?} isn't the {field}, {name:?}");
            return Err(ConfigError::invalid(
                format!("linux.sysctl.{sysctl}"),
                problem,
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
