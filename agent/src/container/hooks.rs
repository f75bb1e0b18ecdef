//! `hooks`: programs that are run at certain points of a container's life, with its state on their
//! standard input
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks)).
//!
//! [`Container::create`](super::Container::create) and `start` run their own hooks, and fail if one
//! fails. The caller runs `poststart` with [`run`] when `start` has returned, and `poststop` with
//! [`run_all`] when the container has been deleted.
//!
//! A hook has the environment of its entry. Without one it is as with runc: hooks in the
//! container's namespaces get the process's environment, the others the caller's. Hooks that run
//! before the container's root is entered run in the bundle's directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use oci_spec::runtime::{ContainerState, Hook, Spec, State};

pub use super::error::HookError;
use super::error::{HookProblem, Step};
pub use crate::container::config::hooks::limit;
use crate::container::config::hooks::{lists, split, timeout};
use crate::container::kernel::sys;
use crate::container::kernel::wait::wait_until_readable;

/// How much of a failed hook's output its error includes, in bytes.
const OUTPUT_MAX: u64 = 4 << 10;

/// Runs hooks one after the other, in this process's namespaces. `field` is their list's path in
/// the configuration, such as `hooks.poststart`; `state` is their input.
///
/// # Errors
///
/// The error of the first hook that can't be run, doesn't end with status 0, or is killed because
/// it exceeds its timeout. The hooks after it aren't run.
pub fn run(hooks: &[Hook], field: &str, state: &State) -> Result<(), HookError> {
    HookSurroundings::of_the_caller(state).run(hooks, field, state)
}

/// As [`run`], but goes on after a hook fails. Returns all errors.
pub fn run_all(hooks: &[Hook], field: &str, state: &State) -> Vec<HookError> {
    let surroundings = HookSurroundings::of_the_caller(state);
    let hooks = hooks.iter().enumerate();
    hooks
        .filter_map(|(index, hook)| surroundings.run_one(hook, field, index, state).err())
        .collect()
}

/// Returns the bundle's directory, if it still exists.
fn directory(state: &State) -> Option<&Path> {
    Some(state.bundle().as_path()).filter(|bundle| bundle.is_dir())
}

/// What hooks are run with besides their entries.
struct HookSurroundings<'a> {
    directory: Option<&'a Path>,
    /// The environment of a hook without its own; `None` for this process's.
    env: Option<&'a [String]>,
}

impl<'a> HookSurroundings<'a> {
    fn of_the_caller(state: &'a State) -> Self {
        HookSurroundings {
            directory: directory(state),
            env: None,
        }
    }

    fn run(&self, hooks: &[Hook], field: &str, state: &State) -> Result<(), HookError> {
        let mut hooks = hooks.iter().enumerate();
        hooks.try_for_each(|(index, hook)| self.run_one(hook, field, index, state))
    }

    fn run_one(
        &self,
        hook: &Hook,
        field: &str,
        index: usize,
        state: &State,
    ) -> Result<(), HookError> {
        try_run(self, hook, state).map_err(|problem| HookError {
            field: format!("{field}[{index}]"),
            path: hook.path().clone(),
            problem,
        })
    }

    /// Returns the environment of a hook; `None` for this process's.
    fn env_of<'b>(&self, hook: &'b Hook) -> Option<&'b [String]>
    where
        'a: 'b,
    {
        let own = hook.env().as_deref();
        match self.env {
            None => own,
            Some(process) => own.filter(|env| !env.is_empty()).or(Some(process)),
        }
    }
}

fn try_run(
    surroundings: &HookSurroundings<'_>,
    hook: &Hook,
    state: &State,
) -> Result<(), HookProblem> {
    // Files in memory, so that a hook can't block us: by not reading, by writing without end, or by
    // leaving a process behind that has its output open.
    let mut input = memory_file().step(|| "make a file for its input")?;
    let state_json = serde_json::to_vec(state).step(|| "describe the container's state")?;
    input
        .write_all(&state_json)
        .and_then(|()| input.rewind())
        .step(|| "write the container's state")?;
    let output = memory_file().step(|| "make a file for its output")?;
    let copy = || output.try_clone().step(|| "share its output's file");

    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    command
        .arg0(args.first().map_or(hook.path().as_os_str(), OsStr::new))
        .args(args.iter().skip(1))
        // So that it can be killed with all that it has started.
        .process_group(0)
        .stdin(input)
        .stdout(copy()?)
        .stderr(copy()?);
    if let Some(directory) = surroundings.directory {
        command.current_dir(directory);
    }
    if let Some(env) = surroundings.env_of(hook) {
        command
            .env_clear()
            .envs(env.iter().filter_map(|v| split(v)));
    }
    let mut child = spawn(&mut command).step(|| "run it")?;
    let limit = timeout(hook);
    let ended = wait_for(&mut child, limit).step(|| "wait for it")?;
    let output = || told(output);
    match (ended, limit) {
        (Some(status), _) if status.success() => Ok(()),
        (Some(status), _) => Err(HookProblem::Failed {
            status,
            output: output(),
        }),
        (None, limit) => Err(HookProblem::TimedOut {
            seconds: limit.unwrap_or_default().as_secs(),
            output: output(),
        }),
    }
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    match command.spawn() {
        // Caused by a filter that forbids clone3: on this error the C library doesn't fall back.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            // SAFETY: it does nothing. It makes the standard library use fork instead.
            unsafe { command.pre_exec(|| Ok(())) };
            command.spawn()
        }
        other => other,
    }
}

fn memory_file() -> io::Result<File> {
    Ok(memfd_create("hook", MFdFlags::MFD_CLOEXEC)?.into())
}

/// Waits for a hook to end. Returns `None` if it had to be killed.
fn wait_for(child: &mut Child, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
    if let Some(limit) = limit {
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let in_time = sys::pidfd_open(pid).and_then(|p| wait_until_readable(p.as_fd(), limit));
        if !matches!(in_time, Ok(true)) {
            // It is our child and isn't reaped, so the pid is still its own.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = child.kill();
            child.wait()?;
            return in_time.map(|_| None);
        }
    }
    child.wait().map(Some)
}

/// Returns the end of a hook's output, as text to append to an error.
fn told(mut output: File) -> String {
    let mut text = Vec::new();
    let read = output.seek(SeekFrom::End(0)).and_then(|length| {
        output.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_MAX)))?;
        output.take(OUTPUT_MAX).read_to_end(&mut text)
    });
    match (read, String::from_utf8_lossy(&text).trim()) {
        (Err(_), _) | (_, "") => String::new(),
        (_, text) => format!(", output: {text}"),
    }
}

/// The hooks that run while a container is created and started.
pub(crate) struct Hooks<'a> {
    prestart: &'a [Hook],
    create_runtime: &'a [Hook],
    create_container: &'a [Hook],
    start_container: &'a [Hook],
    /// `process.env`.
    env: &'a [String],
    /// The state that they get, without the pid.
    state: State,
}

impl<'a> Hooks<'a> {
    /// Returns the hooks of `spec`; `None` if there are none to run.
    pub(crate) fn from_spec(spec: &'a Spec, id: &str, bundle: &Path) -> Option<Self> {
        let hooks = spec.hooks().as_ref()?;
        let [
            prestart,
            create_runtime,
            create_container,
            start_container,
            ..,
        ] = lists(hooks).map(|(_, list)| list);
        let used = [prestart, create_runtime, create_container, start_container];
        if used.iter().all(|list| list.is_empty()) {
            return None;
        }
        let state = creating(spec, id, bundle);
        let process = spec.process().as_ref();
        Some(Hooks {
            env: process.and_then(|p| p.env().as_deref()).unwrap_or_default(),
            prestart,
            create_runtime,
            create_container,
            start_container,
            state,
        })
    }

    /// Whether any hooks are to run in the caller's namespaces.
    pub(crate) fn has_runtimes(&self) -> bool {
        !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }

    /// The engine: runs `prestart` and `createRuntime`, once the init's namespaces exist.
    pub(crate) fn run_in_runtime(&self, init: i32) -> Result<(), HookError> {
        let state = self.state_of(init);
        run(self.prestart, "hooks.prestart", &state)?;
        run(self.create_runtime, "hooks.createRuntime", &state)
    }

    /// Returns how long the `createContainer` hooks may take, which run in the container's
    /// namespaces before its root is entered; `None` if there are none.
    pub(crate) fn create_container_limit(&self) -> Option<Duration> {
        limit(self.create_container)
    }

    /// The init: runs the `createContainer` hooks.
    pub(crate) fn run_create_container(&self) -> Result<(), HookError> {
        let state = self.state_of(Pid::this().as_raw());
        let surroundings = HookSurroundings {
            directory: directory(&state),
            env: Some(self.env),
        };
        surroundings.run(self.create_container, "hooks.createContainer", &state)
    }

    /// As [`Hooks::create_container_limit`], for the hooks that run just before the workload.
    pub(crate) fn start_container_limit(&self) -> Option<Duration> {
        limit(self.start_container)
    }

    /// The init, in the container: runs the `startContainer` hooks.
    pub(crate) fn run_start_container(&self) -> Result<(), HookError> {
        let mut state = self.state_of(Pid::this().as_raw());
        state.set_status(ContainerState::Created);
        let surroundings = HookSurroundings {
            directory: None,
            env: Some(self.env),
        };
        surroundings.run(self.start_container, "hooks.startContainer", &state)
    }

    fn state_of(&self, init: i32) -> State {
        let mut state = self.state.clone();
        state.set_pid(Some(init));
        state
    }
}

/// Returns the state of a container that is being created.
pub(crate) fn creating(spec: &Spec, id: &str, bundle: &Path) -> State {
    let mut state = State::default();
    state
        .set_version(spec.version().clone())
        .set_id(id.to_owned())
        .set_status(ContainerState::Creating)
        .set_bundle(bundle.to_owned())
        .set_annotations(spec.annotations().clone());
    state
}

#[cfg(test)]
mod tests;
