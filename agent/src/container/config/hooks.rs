//! Parses `hooks`
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks)).

use std::time::Duration;

use oci_spec::runtime::{Hook, Hooks};

use super::error::ConfigError;
use crate::container::kernel::wait::FOREVER;

/// Returns how long `hooks` may take; `None` if there are none.
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

/// Splits NAME=VALUE.
pub(crate) fn split(variable: &str) -> Option<(&str, &str)> {
    variable
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
}

/// Returns how long a hook may take, if that is limited.
pub(crate) fn timeout(hook: &Hook) -> Option<Duration> {
    let seconds = u64::try_from(hook.timeout()?).ok()?;
    Some(Duration::from_secs(seconds).min(FOREVER))
}

/// Returns every list, with its name.
#[allow(deprecated)] // Prestart hooks are, but clients give them.
pub(crate) fn lists(hooks: &Hooks) -> [(&'static str, &[Hook]); 6] {
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

/// Checks what needs no file system: paths, timeouts, and whether the kernel would take the
/// strings.
pub(crate) fn validate(hooks: &Hooks) -> Result<(), ConfigError> {
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
