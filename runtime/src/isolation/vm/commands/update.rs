//! `nacre update`: the container's limits in the guest, and the VM's on the host.

use nacre_agent::{
    container::cgroups::{Cgroup, Changed},
    protocol::{Answer, Request},
};
use oci_spec::runtime::{LinuxCpu, LinuxResources};

use crate::{
    config::size::{Bytes, Size},
    state::Status,
    systemd::Systemd,
};

use super::client::{Client, ClientError, TIMEOUT};
use crate::isolation::vm::{
    Found, VmError,
    guest_spec::{check_resources, cpus::translate_cpuset},
    limits,
};

/// Why a VM can't take other limits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(
        "linux.resources.memory.limit: {asked} is more than the VM's {has}, which it keeps for its \
         life; the annotation dev.nacre.vm.memory makes a larger one"
    )]
    Memory { asked: Bytes, has: Bytes },
    #[error(
        "linux.resources.cpu.quota: it takes {asked} CPUs, and the VM has {has}, which it keeps for \
         its life; the annotation dev.nacre.vm.cpus gives it more"
    )]
    Cpus { asked: u64, has: u32 },
}

/// Changes the limits of a container that hasn't ended: in the guest and on the host, or nowhere.
pub(crate) fn update(
    found: &Found<'_>,
    status: Status,
    resources: &LinuxResources,
) -> Result<(), VmError> {
    match status {
        Status::Created | Status::Running => {}
        // Its kernel stands still.
        Status::Paused | Status::Creating | Status::Stopped => {
            return Err(found.not_running(status));
        }
    }
    check(resources, found.vm.size)?;
    let cgroup = found.vm.cgroup.as_ref();
    let systemd = match cgroup.and_then(Cgroup::unit) {
        Some(_) => Some(Systemd::connect()?),
        None => None,
    };
    let mut client = Client::connect(&found.folder)?;
    let host = on_host(found, resources, &mut client)?;
    let changed = match cgroup {
        Some(cgroup) => cgroup.limit_where_possible(&host)?,
        None => Changed::default(),
    };
    let mut guest = resources.clone();
    translate_cpuset(&mut guest, found.vm.size.cpus);
    let request = Request::Update {
        id: found.record.id.clone(),
        resources: Box::new(guest),
    };
    match client.ask_guest(request, TIMEOUT) {
        Ok(Answer::Done) => {}
        other => {
            changed.undo();
            other?;
            return Err(ClientError::Unasked.into());
        }
    }
    limits::tell_of_left_out(&changed.left_out);
    if let (Some(cgroup), Some(systemd)) = (cgroup, &systemd) {
        cgroup.tell_systemd(systemd, &host)?;
    }
    Ok(())
}

/// Refuses what the guest can't honour before anything is changed on the host.
fn check(resources: &LinuxResources, size: Size) -> Result<(), VmError> {
    let mut alone = resources.clone();
    if let Some(mut memory) = *alone.memory()
        && memory.limit().is_none_or(|limit| limit == 0)
    {
        // It is checked by the guest's engine, which knows the limit that it goes with.
        memory.set_swap(None);
        alone.set_memory(Some(memory));
    }
    check_resources(&alone)?;
    Ok(check_size(resources, size)?)
}

/// A VM is as large as it was made.
fn check_size(resources: &LinuxResources, size: Size) -> Result<(), UpdateError> {
    let limit = resources.memory().as_ref().and_then(|m| m.limit());
    if let Some(asked) = limit.and_then(|limit| u64::try_from(limit).ok())
        && asked > size.memory
    {
        let (asked, has) = (Bytes(asked), Bytes(size.memory));
        return Err(UpdateError::Memory { asked, has });
    }
    match resources.cpu().as_ref().and_then(cpus) {
        Some(asked) if asked > u64::from(size.cpus) => Err(UpdateError::Cpus {
            asked,
            has: size.cpus,
        }),
        _ => Ok(()),
    }
}

/// How many CPUs a quota is of.
fn cpus(cpu: &LinuxCpu) -> Option<u64> {
    let quota = u64::try_from(cpu.quota()?).ok()?;
    // The kernel's period, unless told otherwise.
    let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
    Some(quota.div_ceil(period))
}

/// The host's part. Of memory the VM keeps what it has; of swap it may use what the container may.
fn on_host(
    found: &Found<'_>,
    resources: &LinuxResources,
    client: &mut Client,
) -> Result<LinuxResources, VmError> {
    let mut host = limits::of(resources);
    let Some(mut memory) = *resources.memory() else {
        return Ok(host);
    };
    let mut of_host = oci_spec::runtime::LinuxMemory::default();
    of_host.set_reservation(memory.reservation());
    if let (Some(1..), Some(cgroup)) = (memory.swap(), &found.vm.cgroup) {
        if memory.limit().is_none_or(|limit| limit == 0) {
            let id = found.record.id.clone();
            let Answer::Stats(stats) = client.ask_guest(Request::Stats { id }, TIMEOUT)? else {
                return Err(ClientError::Unasked.into());
            };
            memory.set_limit(i64::try_from(stats.memory.usage.limit).ok());
        }
        let total = cgroup.stats()?.memory.usage.limit;
        of_host.set_swap(
            i64::try_from(total)
                .ok()
                .and_then(|total| limits::swap(&memory, total)),
        );
    } else if memory.swap() == Some(-1) {
        of_host.set_swap(Some(-1));
    }
    if of_host != oci_spec::runtime::LinuxMemory::default() {
        host.set_memory(Some(of_host));
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use nacre_agent::container::describe;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_vm_does_not_have_is_refused_by_name() {
        let size = Size {
            cpus: 2,
            memory: 256 << 20,
        };
        let checked = |json: serde_json::Value| {
            let resources: LinuxResources = serde_json::from_value(json).unwrap();
            check(&resources, size).map_err(|error| describe(&error))
        };
        for fine in [
            json!({}),
            json!({"memory": {"limit": -1}}),
            json!({"memory": {"limit": 256 << 20, "swap": 1i64 << 40}}),
            json!({"cpu": {"quota": -1, "period": 1000}}),
            json!({"cpu": {"quota": 200_000}}),
            json!({"cpu": {"quota": 100_000, "period": 50_000}}),
            json!({"memory": {"swap": 1 << 20}}),
            json!({"memory": {"limit": 0, "swap": 1 << 20}}),
        ] {
            assert_eq!(checked(fine.clone()), Ok(()), "{fine}");
        }
        let message = checked(json!({"memory": {"limit": 512 << 20}})).unwrap_err();
        assert!(
            message
                .starts_with("linux.resources.memory.limit: 512 MiB is more than the VM's 256 MiB"),
            "{message}"
        );
        let message = checked(json!({"cpu": {"quota": 100_001, "period": 50_000}})).unwrap_err();
        assert!(
            message.starts_with("linux.resources.cpu.quota: it takes 3 CPUs, and the VM has 2"),
            "{message}"
        );
        let rate = json!([{"major": 254, "minor": 0, "rate": 1000}]);
        for (json, field) in [
            (json!({"memory": {"kernel": 4096}}), "memory.kernel"),
            (json!({"memory": {"swappiness": 3}}), "memory.swappiness"),
            (json!({"memory": {"limit": 10, "swap": 5}}), "memory.swap"),
            (json!({"network": {"classID": 5}}), "network.classID"),
            (
                json!({"cpu": {"realtimeRuntime": 5}}),
                "cpu.realtimeRuntime",
            ),
            (
                json!({"blockIO": {"throttleReadBpsDevice": rate}}),
                "blockIO.throttleReadBpsDevice",
            ),
        ] {
            let message = checked(json).unwrap_err();
            assert!(message.contains(field), "{field}: {message}");
        }
    }
}
