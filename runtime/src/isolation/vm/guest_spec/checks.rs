//! Refuses what the engine can do for a container on this kernel, but not for one in a guest.

use nacre_agent::container::cgroups::Cgroup;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};

use super::error::GuestSpecError;

/// Refuses what the engine does for a container on this kernel, but can't do for one in a guest.
pub(super) fn check_unsupported(spec: &Spec) -> Result<(), GuestSpecError> {
    let linux = spec.linux().as_ref();
    let devices = linux.and_then(|l| l.net_devices().as_ref());
    let seccomp = linux.and_then(|l| l.seccomp().as_ref());
    let listener = seccomp.and_then(|s| s.listener_path().as_ref());
    if listener.is_some_and(|path| !path.as_os_str().is_empty()) {
        return Err(GuestSpecError::Listener);
    }
    if devices.is_some_and(|devices| !devices.is_empty()) {
        return Err(GuestSpecError::NetDevices);
    }
    if linux.is_some_and(|linux| linux.memory_policy().is_some()) {
        return Err(GuestSpecError::MemoryPolicy);
    }
    Ok(())
}

pub(super) fn check_namespaces(spec: &Spec) -> Result<(), GuestSpecError> {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default();
    for namespace in namespaces {
        // The guest gets its network as it is.
        if namespace.typ() != LinuxNamespaceType::Network
            && let Some(path) = namespace.path()
            && !path.as_os_str().is_empty()
        {
            return Err(GuestSpecError::NamespacePath {
                kind: namespace.typ().to_string(),
                path: path.clone(),
            });
        }
    }
    let has = |kind| namespaces.iter().any(|n| n.typ() == kind);
    if !has(LinuxNamespaceType::Network) {
        return Err(GuestSpecError::HostNetwork);
    }
    Ok(())
}

/// Refuses limits that a guest can't honour. A block device's number is the host's, and may be that
/// of another device in the guest, such as its disk.
pub(in crate::isolation::vm) fn check_resources(
    resources: &LinuxResources,
) -> Result<(), GuestSpecError> {
    Cgroup::validate_for_v2(resources).map_err(GuestSpecError::Resources)?;
    let Some(block_io) = resources.block_io() else {
        return Ok(());
    };
    let throttles = |devices: &Option<Vec<_>>| devices.as_ref().is_some_and(|d| !d.is_empty());
    let weighs = block_io.weight_device().as_ref();
    for (field, is_there) in [
        ("weightDevice", weighs.is_some_and(|d| !d.is_empty())),
        (
            "throttleReadBpsDevice",
            throttles(block_io.throttle_read_bps_device()),
        ),
        (
            "throttleWriteBpsDevice",
            throttles(block_io.throttle_write_bps_device()),
        ),
        (
            "throttleReadIOPSDevice",
            throttles(block_io.throttle_read_iops_device()),
        ),
        (
            "throttleWriteIOPSDevice",
            throttles(block_io.throttle_write_iops_device()),
        ),
    ] {
        if is_there {
            return Err(GuestSpecError::BlockDevice(field));
        }
    }
    Ok(())
}
