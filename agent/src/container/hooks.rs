//! `hooks`: programs that are run at certain points of a container's life, with its state on
//! their standard input
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks)).
//!
//! [`Container::create`](super::Container::create) and `start` run those that belong to them,
//! and fail if one fails. `poststart` and `poststop` are for who calls them: with [`run`],
//! when `start` has returned, and with [`run_all`], when the container has been deleted.
//!
//! A hook has the environment that its entry gives it, and no other. Those that are run in the
//! caller's namespaces or before the container's root is entered are run in the bundle's
//! directory, as by runc.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use oci_spec::runtime::{ContainerState, Hook, Spec, State};

use super::channel::{FOREVER, wait_until_readable};
use super::config::ConfigError;
use super::sys;

/// How much of what a hook has written is told of it if it fails, in bytes.
const OUTPUT_MAX: u64 = 4 << 10;

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("{field} ({}): {problem}", path.display())]
pub struct HookError {
    /// Its entry's path in the configuration.
    field: String,
    /// Its program's path.
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("can't {step}: {source}")]
    Step {
        step: &'static str,
        source: io::Error,
    },
    #[error("it isn't done after {seconds} s (its timeout), and was killed{output}")]
    TimedOut { seconds: u64, output: String },
    #[error("{}{output}", how(*status))]
    Failed { status: ExitStatus, output: String },
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    }
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Problem {
    move |source| Problem::Step {
        step,
        source: source.into(),
    }
}

/// Runs hooks one after the other, in this process's namespaces. `field` is their list's path
/// in the configuration, such as `hooks.poststart`; `state` is what they are told.
///
/// # Errors
///
/// That of the first one that can't be run, doesn't end with status 0, or takes longer than
/// its timeout, for which it is killed. Those after it aren't run.
pub fn run(hooks: &[Hook], field: &str, state: &State) -> Result<(), HookError> {
    run_in(directory(state), hooks, field, state)
}

/// As [`run`], but goes on after one that fails. Returns their errors.
pub fn run_all(hooks: &[Hook], field: &str, state: &State) -> Vec<HookError> {
    let hooks = hooks.iter().enumerate();
    hooks
        .filter_map(|(index, hook)| run_one(directory(state), hook, field, index, state).err())
        .collect()
}

/// Whether there is any.
pub fn any(hooks: &oci_spec::runtime::Hooks) -> bool {
    lists(hooks).into_iter().any(|(_, list)| !list.is_empty())
}

/// The bundle, if it is still there.
fn directory(state: &State) -> Option<&Path> {
    Some(state.bundle().as_path()).filter(|bundle| bundle.is_dir())
}

fn run_in(
    directory: Option<&Path>,
    hooks: &[Hook],
    field: &str,
    state: &State,
) -> Result<(), HookError> {
    let mut hooks = hooks.iter().enumerate();
    hooks.try_for_each(|(index, hook)| run_one(directory, hook, field, index, state))
}

fn run_one(
    directory: Option<&Path>,
    hook: &Hook,
    field: &str,
    index: usize,
    state: &State,
) -> Result<(), HookError> {
    try_run(directory, hook, state).map_err(|problem| HookError {
        field: format!("{field}[{index}]"),
        path: hook.path().clone(),
        problem,
    })
}

fn try_run(directory: Option<&Path>, hook: &Hook, state: &State) -> Result<(), Problem> {
    // Files in memory, so that neither who doesn't read nor who writes without end, or leaves
    // somebody behind that has its output open, could make us wait.
    let mut input = memory_file().map_err(step("make a file for its input"))?;
    let state_json = serde_json::to_vec(state).map_err(step("describe the container's state"))?;
    input
        .write_all(&state_json)
        .and_then(|()| input.rewind())
        .map_err(step("write the container's state"))?;
    let output = memory_file().map_err(step("make a file for its output"))?;
    let copy = || output.try_clone().map_err(step("share its output's file"));

    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    command
        .arg0(args.first().map_or(hook.path().as_os_str(), OsStr::new))
        .args(args.iter().skip(1))
        .env_clear()
        .envs(hook.env().iter().flatten().filter_map(|v| split(v)))
        // To be killed with all that it has started.
        .process_group(0)
        .stdin(input)
        .stdout(copy()?)
        .stderr(copy()?);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let mut child = spawn(&mut command).map_err(step("run it"))?;
    let limit = timeout(hook);
    let ended = wait_for(&mut child, limit).map_err(step("wait for it"))?;
    let output = || told(output);
    match (ended, limit) {
        (Some(status), _) if status.success() => Ok(()),
        (Some(status), _) => Err(Problem::Failed {
            status,
            output: output(),
        }),
        (None, limit) => Err(Problem::TimedOut {
            seconds: limit.unwrap_or_default().as_secs(),
            output: output(),
        }),
    }
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    match command.spawn() {
        // Of a filter that forbids clone3, which the C library takes for no sign to do without.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            // SAFETY: it does nothing. With it the standard library forks in the old way.
            unsafe { command.pre_exec(|| Ok(())) };
            command.spawn()
        }
        other => other,
    }
}

fn memory_file() -> io::Result<File> {
    Ok(memfd_create("hook", MFdFlags::MFD_CLOEXEC)?.into())
}

fn split(variable: &str) -> Option<(&str, &str)> {
    variable
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
}

fn timeout(hook: &Hook) -> Option<Duration> {
    let seconds = u64::try_from(hook.timeout()?).ok()?;
    Some(Duration::from_secs(seconds).min(FOREVER))
}

/// Waits for a hook's end. `None` if it had to be killed.
fn wait_for(child: &mut Child, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
    if let Some(limit) = limit {
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let in_time = sys::pidfd_open(pid).and_then(|p| wait_until_readable(p.as_fd(), limit));
        if !matches!(in_time, Ok(true)) {
            // It is our child and not reaped, so that the number is its own.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = child.kill();
            child.wait()?;
            return in_time.map(|_| None);
        }
    }
    child.wait().map(Some)
}

/// The end of what a hook has written, in words to follow others.
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

/// The hooks of a container's creation and start.
pub(super) struct Hooks<'a> {
    prestart: &'a [Hook],
    create_runtime: &'a [Hook],
    create_container: &'a [Hook],
    start_container: &'a [Hook],
    /// What they are told, but for the pid.
    state: State,
}

impl<'a> Hooks<'a> {
    /// Those of `spec`; `None` if there is nothing to run.
    pub(super) fn of(spec: &'a Spec, id: &str, bundle: &Path) -> Option<Self> {
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
        Some(Hooks {
            prestart,
            create_runtime,
            create_container,
            start_container,
            state,
        })
    }

    /// Whether there are some to be run in the caller's namespaces.
    pub(super) fn has_runtimes(&self) -> bool {
        !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }

    /// The engine: runs `prestart` and `createRuntime`, once the init's namespaces are there.
    pub(super) fn run_in_runtime(&self, init: i32) -> Result<(), HookError> {
        let state = self.state_of(init);
        run(self.prestart, "hooks.prestart", &state)?;
        run(self.create_runtime, "hooks.createRuntime", &state)
    }

    /// How long those take that are run in the container's namespaces before it is entered;
    /// `None` if there are none.
    pub(super) fn create_container_limit(&self) -> Option<Duration> {
        limit(self.create_container)
    }

    /// The init: runs them.
    pub(super) fn run_create_container(&self) -> Result<(), HookError> {
        let state = self.state_of(Pid::this().as_raw());
        run(self.create_container, "hooks.createContainer", &state)
    }

    /// As [`Hooks::create_container_limit`], of those that are run just before the workload.
    pub(super) fn start_container_limit(&self) -> Option<Duration> {
        limit(self.start_container)
    }

    /// The init, in the container: runs them.
    pub(super) fn run_start_container(&self) -> Result<(), HookError> {
        let mut state = self.state_of(Pid::this().as_raw());
        state.set_status(ContainerState::Created);
        run_in(None, self.start_container, "hooks.startContainer", &state)
    }

    fn state_of(&self, init: i32) -> State {
        let mut state = self.state.clone();
        state.set_pid(Some(init));
        state
    }
}

/// The state of a container that is being created.
pub(super) fn creating(spec: &Spec, id: &str, bundle: &Path) -> State {
    let mut state = State::default();
    state
        .set_version(spec.version().clone())
        .set_id(id.to_owned())
        .set_status(ContainerState::Creating)
        .set_bundle(bundle.to_owned())
        .set_annotations(spec.annotations().clone());
    state
}

/// How long `hooks` may take; `None` if there are none.
pub fn limit(hooks: &[Hook]) -> Option<Duration> {
    if hooks.is_empty() {
        return None;
    }
    let all = hooks
        .iter()
        .map(|hook| timeout(hook).unwrap_or(FOREVER))
        .fold(Duration::ZERO, Duration::saturating_add);
    Some(all.min(FOREVER))
}

/// Every list, with its name.
#[allow(deprecated)] // Prestart hooks are, but clients give them.
fn lists(hooks: &oci_spec::runtime::Hooks) -> [(&'static str, &[Hook]); 6] {
    [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ]
    .map(|(name, list)| (name, list.as_deref().unwrap_or_default()))
}

/// Checks what needs no file system: paths, timeouts, and strings that the kernel could take.
pub(super) fn validate(hooks: &oci_spec::runtime::Hooks) -> Result<(), ConfigError> {
    for (name, list) in lists(hooks) {
        for (index, hook) in list.iter().enumerate() {
            let field = |part: &str| format!("hooks.{name}[{index}].{part}");
            if !hook.path().is_absolute() {
                let problem = format!("{:?} isn't absolute", hook.path());
                return Err(ConfigError::invalid(field("path"), problem));
            }
            if let Some(seconds) = hook.timeout().filter(|seconds| *seconds <= 0) {
                let problem = format!("{seconds} s isn't more than none");
                return Err(ConfigError::invalid(field("timeout"), problem));
            }
            for (at, variable) in hook.env().iter().flatten().enumerate() {
                if split(variable).is_none() {
                    let problem = format!("{variable:?} isn't NAME=VALUE");
                    return Err(ConfigError::invalid(field(&format!("env[{at}]")), problem));
                }
            }
            let strings = [("args", hook.args()), ("env", hook.env())];
            let path = hook.path().to_string_lossy();
            let nul = strings
                .into_iter()
                .find(|(_, list)| list.iter().flatten().any(|s| s.contains('\0')))
                .map(|(part, _)| part)
                .or(path.contains('\0').then_some("path"));
            if let Some(part) = nul {
                return Err(ConfigError::invalid(field(part), "it has a NUL character"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hooks(list: Value) -> Vec<Hook> {
        serde_json::from_value(list).unwrap()
    }

    fn shell(script: &str) -> Value {
        json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
    }

    fn state() -> State {
        let mut state = State::default();
        state.set_id("a".into()).set_pid(Some(7));
        state
    }

    fn run_list(list: Value) -> Result<(), String> {
        run(&hooks(list), "hooks.poststart", &state()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_hook_gets_its_arguments_its_environment_and_the_state() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("out");
        let script = format!(
            "{{ echo $0 $1; cat; echo; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_=; }} > {}",
            file.display()
        );
        let hook = json!({"path": "/bin/sh", "args": ["x", "-c", script, "zero", "one"],
                          "env": ["A=1=2"]});
        run_list(json!([hook])).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("zero one"));
        let told: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!((&told["id"], &told["pid"]), (&json!("a"), &json!(7)));
        assert_eq!(lines.collect::<Vec<_>>(), ["A=1=2"]);
    }

    #[test]
    fn the_first_failure_ends_it_unless_all_are_to_run() {
        let directory = tempfile::tempdir().unwrap();
        let touch = |name: &str| shell(&format!("touch {}", directory.path().join(name).display()));
        let list = json!([touch("1"), shell("echo no >&2; exit 3"), touch("2")]);
        assert_eq!(
            run_list(list.clone()).unwrap_err(),
            "hooks.poststart[1] (/bin/sh): exit status 3, output: no"
        );
        assert!(directory.path().join("1").exists());
        assert!(!directory.path().join("2").exists());
        assert_eq!(run_all(&hooks(list), "hooks.poststop", &state()).len(), 1);
        assert!(directory.path().join("2").exists());
    }

    #[test]
    fn how_one_failed_is_told() {
        let started = std::time::Instant::now();
        let mut slow = shell("echo so far; sleep 60 & sleep 60");
        slow["timeout"] = json!(1);
        for (hook, error) in [
            (
                slow,
                "hooks.poststart[0] (/bin/sh): it isn't done after 1 s (its timeout), and was killed, output: so far",
            ),
            (
                json!({"path": "/no/such"}),
                "hooks.poststart[0] (/no/such): can't run it: No such file or directory (os error 2)",
            ),
            (
                shell("kill -9 $$"),
                "hooks.poststart[0] (/bin/sh): killed by signal 9",
            ),
        ] {
            assert_eq!(run_list(json!([hook])).unwrap_err(), error);
        }
        let huge = run_list(json!([shell("seq 10000; exit 1")])).unwrap_err();
        assert!(huge.ends_with("9999\n10000") && huge.len() < 5000, "{huge}");
        // Somebody that is left behind isn't waited for.
        run_list(json!([shell("sleep 20 &")])).unwrap();
        assert!(started.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn a_hook_that_could_not_be_run_is_refused() {
        for (hook, error) in [
            (json!({"path": "x"}), "path: \"x\" isn't absolute"),
            (
                json!({"path": "/x", "timeout": 0}),
                "timeout: 0 s isn't more than none",
            ),
            (
                json!({"path": "/x", "timeout": -1}),
                "timeout: -1 s isn't more than none",
            ),
            (
                json!({"path": "/x", "env": ["A=1", "B"]}),
                "env[1]: \"B\" isn't NAME=VALUE",
            ),
            (
                json!({"path": "/x", "args": ["\0"]}),
                "args: it has a NUL character",
            ),
        ] {
            for name in ["prestart", "createRuntime", "poststop"] {
                let hooks = serde_json::from_value(json!({name: [{"path": "/y"}, hook]})).unwrap();
                let found = validate(&hooks).unwrap_err().to_string();
                assert_eq!(found, format!("hooks.{name}[1].{error}"));
            }
        }
        let fine = json!({"poststop": [{"path": "/x", "timeout": i64::MAX, "args": []}]});
        validate(&serde_json::from_value(fine).unwrap()).unwrap();
    }

    #[test]
    fn how_long_they_may_take_is_the_sum_of_their_timeouts() {
        let of = |list: Value| limit(&hooks(list));
        assert_eq!(of(json!([])), None);
        let (a, b) = (
            json!({"path": "/x", "timeout": 2}),
            json!({"path": "/x", "timeout": 3}),
        );
        assert_eq!(of(json!([a, b])), Some(Duration::from_secs(5)));
        assert_eq!(of(json!([a, {"path": "/x"}])), Some(FOREVER));
        let huge = json!({"path": "/x", "timeout": i64::MAX});
        assert_eq!(of(json!([huge, huge])), Some(FOREVER));
    }
}
