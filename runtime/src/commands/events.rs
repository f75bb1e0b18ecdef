//! `nacre events`: what a container uses, and that it ran out of memory, a line of JSON each.

use serde_json::{Value, json};

use crate::{
    cli::{Events, Global},
    error::Error,
    id::Id,
    isolation::{Found, process, vm},
};

use super::{print, store};

pub(super) fn events(global: &Global, arguments: &Events) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    let (status, interval) = (seen.status, arguments.interval.0);
    let tell = |event| print(&format!("{event}\n"));
    match Found::new(&store, &id, &seen.record) {
        Found::Process(found) if arguments.stats => {
            tell(of_process(&id, process::stats(&found, status)?))?;
        }
        Found::Process(found) => {
            process::watch(&found, status, interval, |event| {
                tell(of_process(&id, event))
            })?;
        }
        Found::Vm(found) if arguments.stats => {
            tell(of_vm(&id, vm::stats(&found, status)?))?;
        }
        Found::Vm(found) => {
            vm::watch(&found, status, interval, |event| tell(of_vm(&id, event)))?;
        }
    }
    Ok(0)
}

fn of_process(id: &Id, event: process::Event) -> Value {
    let id = id.as_str();
    match event {
        process::Event::Stats(stats) => json!({"type": "stats", "id": id, "data": stats}),
        process::Event::Oom => json!({"type": "oom", "id": id}),
    }
}

/// What the VM uses on the host is apart, and so is that it ran out of memory there.
fn of_vm(id: &Id, event: vm::Event) -> Value {
    let id = id.as_str();
    match event {
        vm::Event::Stats { container, sandbox } => {
            let mut data = json!(container);
            data["sandbox"] = json!(sandbox);
            json!({"type": "stats", "id": id, "data": data})
        }
        vm::Event::Oom => json!({"type": "oom", "id": id}),
        vm::Event::SandboxOom => json!({"type": "oom", "id": id, "sandbox": true}),
    }
}
