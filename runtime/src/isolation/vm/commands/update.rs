//! `nacre update`: the container's limits in the guest, and the VM's on the host.

use nacre_agent::{
    container::cgroups::{Cgroup, Changed},
    protocol::Answer,
};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::{
    config::{Bytes, size::Size},
    isolation::vm::{
        error::{ClientError, UpdateError, VmError},
        found::VmContainer,
        guest_spec::{check_resources, cpus::translate_cpuset},
        limits,
        wire::GuestAsk,
    },
    state::Status,
    systemd::Systemd,
};

use super::client::TIMEOUT;

/// Changes the limits of a container that hasn't ended: in the guest and on the host, or nowhere.
pub(crate) fn update(
    found: &VmContainer<'_>,
    status: Status,
    resources: &LinuxResources,
) -> Result<(), VmError> {
    match status {
        Status::Created | Status::Running => {}
        // Its guest is paused.
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
    let swap = resources.memory().as_ref().and_then(LinuxMemory::swap);
    let total = match (swap, cgroup) {
        (Some(1..), Some(cgroup)) => i64::try_from(cgroup.stats()?.memory.usage.limit).ok(),
        _ => None,
    };
    let host = on_host(resources, found.vm.memory_limit, total);
    let mut client = found.connect()?;
    let changed = match cgroup {
        Some(cgroup) => cgroup.limit_where_possible(&host)?,
        None => Changed::default(),
    };
    let mut guest = resources.clone();
    translate_cpuset(&mut guest, found.vm.size.cpus);
    let resources = Box::new(guest);
    match client.ask_guest(GuestAsk::Update { resources }, TIMEOUT) {
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
        // The guest's engine checks it: that knows the limit that goes with it.
        memory.set_swap(None);
        alone.set_memory(Some(memory));
    }
    check_resources(&alone)?;
    Ok(check_size(resources, size)?)
}

/// Refuses more than the VM was made with.
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

/// Returns how many CPUs a quota amounts to.
fn cpus(cpu: &LinuxCpu) -> Option<u64> {
    let quota = u64::try_from(cpu.quota()?).ok()?;
    // The kernel's default period.
    let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
    Some(quota.div_ceil(period))
}

/// Returns the host's part of the limits. The VM keeps the memory that it has, `total`; it may use
/// as much swap as the container may, whose limit on memory is `limit` unless that changes, too.
/// The guest has no say in this: it would choose how much of the host's swap it gets.
fn on_host(resources: &LinuxResources, limit: Option<i64>, total: Option<i64>) -> LinuxResources {
    let mut host = limits::of_host(resources);
    let Some(mut memory) = *resources.memory() else {
        return host;
    };
    memory.set_limit(limits::of_memory(resources).or(limit));
    let mut of_host = LinuxMemory::default();
    of_host.set_reservation(memory.reservation());
    of_host.set_swap(match memory.swap() {
        Some(-1) => Some(-1),
        _ => total.and_then(|total| limits::swap(&memory, total)),
    });
    if of_host != LinuxMemory::default() {
        host.set_memory(Some(of_host));
    }
    host
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
            (json!({"memory": {"kernelTCP": 4096}}), "memory.kernelTCP"),
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

    #[test]
    fn the_hosts_swap_is_what_the_container_was_given_on_the_host() {
        for (memory, limit, expected) in [
            (json!({"swap": 30}), Some(10), json!({"swap": 1020})),
            (
                json!({"swap": 30, "limit": 0}),
                Some(10),
                json!({"swap": 1020}),
            ),
            (
                json!({"swap": 30, "limit": 20}),
                Some(10),
                json!({"swap": 1010}),
            ),
            (json!({"swap": -1}), Some(10), json!({"swap": -1})),
            (json!({"swap": 5}), Some(10), json!({"swap": 1000})),
            // There is nothing to add it to.
            (json!({"swap": 30}), None, json!(null)),
            (json!({"swap": 30}), Some(-1), json!(null)),
            (json!({"limit": 20}), Some(10), json!(null)),
        ] {
            let resources = |memory| serde_json::from_value(json!({ "memory": memory })).unwrap();
            let host = on_host(&resources(memory), limit, Some(1000));
            assert_eq!(host, resources(expected));
        }
    }
}
