//! `nacre state`: prints a container's state (OCI runtime spec, runtime.md, "State").

use serde_json::{Value, json};

use crate::{
    cli::{Container, Global},
    id::Id,
    isolation::{FoundContainer, process, vm},
    state::{By, Seen, Status},
};

use super::{containers::store, error::Error, output::print_json};

pub(super) fn state(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    let mut document = document(&seen);
    let found = FoundContainer::new(&store, &id, &seen.record);
    if let FoundContainer::Vm(found) = &found
        && let Some(difference) = vm::difference(found, seen.status)
    {
        document["difference"] = json!(difference);
    }
    if seen.status != Status::Stopped {
        document["confinement"] = json!(match &found {
            FoundContainer::Vm(found) => vm::confinement(found),
            FoundContainer::Process(found) => process::confinement(found),
        });
    }
    print_json(&document)?;
    Ok(0)
}

/// Describes the state, with runc's additions, the isolation in effect and a guest's kernel.
pub(super) fn document(seen: &Seen) -> Value {
    let record = &seen.record;
    let mut document = json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": seen.status,
        "pid": pid(seen),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.annotations,
        "isolation": record.isolation(),
    });
    if let By::Vm(vm) = &record.by {
        document["hypervisor"] = json!(vm.hypervisor);
        document["guestKernel"] = json!(vm.guest_kernel);
        if let (Status::Stopped, Some(failure)) = (seen.status, vm::failure(vm)) {
            document["failure"] = json!(failure);
        }
    }
    document
}

/// Returns the pid of the process that stands for the container, 0 if it has ended.
pub(super) fn pid(seen: &Seen) -> i32 {
    match seen.status {
        Status::Stopped => 0,
        _ => seen.record.pid().unwrap_or(0),
    }
}
