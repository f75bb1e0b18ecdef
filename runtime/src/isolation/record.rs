//! The record of a container that is about to be made.

use std::{path::PathBuf, time::SystemTime};

use nix::unistd::getuid;
use oci_spec::runtime::Spec;

use crate::{
    id::Id,
    log,
    state::{By, Record},
};

use super::hooks;

/// Makes the record of a container that is about to be made. Paths in `spec` are absolute.
pub(super) fn new_record(id: &Id, bundle: PathBuf, spec: &Spec, by: By) -> Record {
    let rootfs = spec.root().as_ref().map(|root| root.path().clone());
    let (poststart, poststop) = hooks::kept(spec);
    Record {
        oci_version: spec.version().clone(),
        id: id.to_string(),
        bundle,
        rootfs: rootfs.unwrap_or_default(),
        created: log::rfc3339(SystemTime::now()),
        owner: getuid().as_raw(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        poststart,
        poststop,
        by,
    }
}
