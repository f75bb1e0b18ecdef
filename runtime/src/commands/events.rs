//! `nacre events`: prints what a container uses, and when it runs out of memory, as JSON, one line
//! each.

use serde_json::{Value, json};

use crate::{
    cli::{Events, Global},
    id::Id,
    isolation::{
        FoundContainer,
        process::{self, HostEvent},
        vm::{self, VmEvent},
    },
};

use super::{containers::store, error::Error, output::print};

pub(super) fn events(global: &Global, arguments: &Events) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    let (status, interval) = (seen.status, arguments.interval.0);
    let tell = |event| print(&format!("{event}\n"));
    match FoundContainer::new(&store, &id, &seen.record) {
        FoundContainer::Process(found) if arguments.stats => {
            tell(of_process(&id, process::stats(&found, status)?))?;
        }
        FoundContainer::Process(found) => {
            process::watch(&found, status, interval, |event| {
                tell(of_process(&id, event))
            })?;
        }
        FoundContainer::Vm(found) if arguments.stats => {
            tell(of_vm(&id, vm::stats(&found, status)?))?;
        }
        FoundContainer::Vm(found) => {
            vm::watch(&found, status, interval, |event| tell(of_vm(&id, event)))?;
        }
    }
    Ok(0)
}

fn of_process(id: &Id, event: HostEvent) -> Value {
    let id = id.as_str();
    match event {
        HostEvent::Stats(stats) => json!({"type": "stats", "id": id, "data": stats}),
        HostEvent::Oom => json!({"type": "oom", "id": id}),
    }
}

/// Formats a VM's event. What it uses on the host is reported separately, and so is running out of
/// memory there.
fn of_vm(id: &Id, event: VmEvent) -> Value {
    let id = id.as_str();
    match event {
        VmEvent::Stats { container, sandbox } => {
            let mut data = json!(container);
            data["sandbox"] = json!(sandbox);
            json!({"type": "stats", "id": id, "data": data})
        }
        VmEvent::Oom => json!({"type": "oom", "id": id}),
        VmEvent::SandboxOom => json!({"type": "oom", "id": id, "sandbox": true}),
    }
}
