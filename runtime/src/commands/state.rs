//! `nacre state`: a container's state (OCI runtime spec, runtime.md, "State").

use serde_json::{Value, json};

use crate::{
    cli::{Container, Global},
    error::Error,
    id::Id,
    state::{Seen, Status},
};

use super::{print_json, store};

pub(super) fn state(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let seen = store(global)?.look(&id)?;
    print_json(&document(&seen))?;
    Ok(0)
}

/// The state, with runc's additions, the isolation that was obtained and the guest's kernel.
pub(super) fn document(seen: &Seen) -> Value {
    let record = &seen.record;
    json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": seen.status,
        "pid": if seen.status == Status::Stopped { 0 } else { record.pid },
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.annotations,
        "isolation": record.isolation,
        "guestKernel": record.guest_kernel,
    })
}
