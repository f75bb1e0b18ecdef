//! The hooks that commands run on the host, whatever the container is isolated by: those of a
//! creation for a VM's container, as the engine runs them for other containers, and those that
//! follow a start and a deletion.

use nacre_agent::container::hooks::{self, HookError};
use oci_spec::runtime::{ContainerState, Hook, Spec, State};

use crate::{log::chain, state::Record};

/// The hooks of a creation that run in the runtime's namespaces, once the container's exist.
#[derive(Debug)]
pub(super) struct CreationHooks {
    prestart: Vec<Hook>,
    create_runtime: Vec<Hook>,
}

impl CreationHooks {
    pub(super) fn new(spec: &Spec) -> Self {
        let hooks = spec.hooks().as_ref();
        Self {
            prestart: list(hooks.map(|hooks| hooks.prestart())),
            create_runtime: list(hooks.map(|hooks| hooks.create_runtime())),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.prestart.is_empty() && self.create_runtime.is_empty()
    }

    /// Runs them for a container that `pid` stands for.
    pub(super) fn run(&self, record: &Record, pid: i32) -> Result<(), HookError> {
        let state = state(record, ContainerState::Creating, Some(pid));
        hooks::run(&self.prestart, "hooks.prestart", &state)?;
        hooks::run(&self.create_runtime, "hooks.createRuntime", &state)
    }
}

/// Returns the hooks of a container that are kept for later commands: `poststart` and `poststop`.
pub(super) fn kept(spec: &Spec) -> (Vec<Hook>, Vec<Hook>) {
    let hooks = spec.hooks().as_ref();
    (
        list(hooks.map(|hooks| hooks.poststart())),
        list(hooks.map(|hooks| hooks.poststop())),
    )
}

/// Returns how long the hooks that run at the container's start may take, in seconds.
pub(super) fn seconds_of_start(spec: &Spec) -> u64 {
    let hooks = spec.hooks().as_ref();
    let at_start = list(hooks.map(|hooks| hooks.start_container()));
    hooks::limit(&at_start).map_or(0, |limit| limit.as_secs())
}

fn list(list: Option<&Option<Vec<Hook>>>) -> Vec<Hook> {
    list.cloned().flatten().unwrap_or_default()
}

/// Runs the hooks that follow a start.
pub(crate) fn poststart(record: &Record) -> Result<(), HookError> {
    if record.poststart.is_empty() {
        return Ok(());
    }
    let state = state(record, ContainerState::Running, record.pid());
    hooks::run(&record.poststart, "hooks.poststart", &state)
}

/// Runs the hooks that follow a deletion. If one fails, the others and the deletion are carried out
/// all the same.
pub(crate) fn poststop(record: &Record) {
    if record.poststop.is_empty() {
        return;
    }
    let state = state(record, ContainerState::Stopped, None);
    for error in hooks::run_all(&record.poststop, "hooks.poststop", &state) {
        tracing::warn!("{}", chain(&error));
    }
}

/// Returns a container's state as hooks and callers are told it.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_start_takes_as_long_as_its_hooks_may() {
        let seconds = |hooks| {
            let mut spec = Spec::default();
            spec.set_hooks(Some(serde_json::from_value(hooks).unwrap()));
            seconds_of_start(&spec)
        };
        let hook = |timeout| json!({ "path": "/h", "timeout": timeout });
        assert_eq!(seconds(json!({ "createContainer": [hook(400)] })), 0);
        let hooks = json!({ "startContainer": [hook(5), hook(400)] });
        assert_eq!(seconds(hooks), 405);
        let hooks = json!({ "startContainer": [{ "path": "/h" }] });
        assert!(seconds(hooks) > 1 << 31);
    }
}
