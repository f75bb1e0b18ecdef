//! The hooks that are run when `start` and `delete` have done their work. The engine runs the
//! others.

use nacre_agent::container::hooks;
use oci_spec::runtime::{ContainerState, Hook, Spec, State};

use crate::{
    log::chain,
    state::{By, Record},
};

use super::ProcessError;

/// What is kept of a container's hooks for the commands that run them.
pub(super) fn of(spec: &Spec) -> (Vec<Hook>, Vec<Hook>) {
    let hooks = spec.hooks().as_ref();
    let list = |list: Option<&Option<Vec<Hook>>>| list.cloned().flatten().unwrap_or_default();
    (
        list(hooks.map(|hooks| hooks.poststart())),
        list(hooks.map(|hooks| hooks.poststop())),
    )
}

/// Runs those that follow a start.
pub(super) fn poststart(record: &Record) -> Result<(), ProcessError> {
    let By::Process(process) = &record.by else {
        return Ok(());
    };
    if process.poststart.is_empty() {
        return Ok(());
    }
    let pid = process.init.map(|init| init.pid);
    let state = state(record, ContainerState::Running, pid);
    Ok(hooks::run(&process.poststart, "hooks.poststart", &state)?)
}

/// Runs those that follow a deletion. That one fails keeps neither the others nor the deletion
/// from being done.
pub(super) fn poststop(record: &Record) {
    let By::Process(process) = &record.by else {
        return;
    };
    if process.poststop.is_empty() {
        return;
    }
    let state = state(record, ContainerState::Stopped, None);
    for error in hooks::run_all(&process.poststop, "hooks.poststop", &state) {
        tracing::warn!("{}", chain(&error));
    }
}

/// A container's state as others are told of it.
pub(super) fn state(record: &Record, status: ContainerState, pid: Option<i32>) -> State {
    let mut state = State::default();
    state
        .set_version(record.oci_version.clone())
        .set_id(record.id.clone())
        .set_status(status)
        .set_pid(pid)
        .set_bundle(record.bundle.clone())
        .set_annotations(Some(record.annotations.clone()));
    state
}
