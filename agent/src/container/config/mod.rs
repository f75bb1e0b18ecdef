//! Reading `config.json`
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config.md)).

mod validate;

use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::cgroups::CgroupError;

pub use validate::{validate, validate_process};

/// The longest `config.json` that is read, in bytes.
pub const MAX_SIZE: usize = crate::protocol::MAX_MESSAGE;

/// The newest 1.x of the runtime spec of which every field is known here, if only to be
/// refused by name.
const NEWEST_MINOR: u64 = 3;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is longer than [`MAX_SIZE`].
    #[error("it has {0} bytes, over the limit of {MAX_SIZE}")]
    TooLarge(usize),
    /// It isn't JSON.
    #[error("it isn't valid JSON: {0}")]
    Json(#[source] JsonError),
    /// A field has a value that it can't have.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's path, such as `process.rlimits[0].type`.
        field: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A field that there must be isn't there, or is empty.
    #[error("{field} is missing")]
    Missing {
        /// The field's path.
        field: String,
    },
    /// A field asks for something that can't be done yet.
    #[error("{field} isn't supported yet")]
    Unsupported {
        /// The field's path.
        field: String,
    },
    /// A field of `linux.resources` or `linux.cgroupsPath`.
    #[error(transparent)]
    Resources(#[from] CgroupError),
}

/// A syntax error and where it is.
pub type JsonError = serde_json::Error;

impl ConfigError {
    pub(super) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigError::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    pub(super) fn missing(field: impl Into<String>) -> Self {
        ConfigError::Missing {
            field: field.into(),
        }
    }

    pub(super) fn unsupported(field: impl Into<String>) -> Self {
        ConfigError::Unsupported {
            field: field.into(),
        }
    }
}

/// Parses a `config.json` and checks everything that can be checked without touching the
/// system.
///
/// # Errors
///
/// As [`ConfigError`] tells, with the path of the field.
pub fn load(json: &[u8]) -> Result<Spec, ConfigError> {
    let spec = parse(json, "")?;
    validate(&spec)?;
    Ok(spec)
}

/// As [`load`], of a `process` alone: one that is to be started in a container that runs.
///
/// # Errors
///
/// As [`ConfigError`] tells. The field's path begins with `process`.
pub fn load_process(json: &[u8]) -> Result<Process, ConfigError> {
    let process = parse(json, "process.")?;
    validate_process(&process)?;
    Ok(process)
}

/// `parent` is what the paths of the document's fields begin with in a configuration.
fn parse<T: DeserializeOwned>(json: &[u8], parent: &str) -> Result<T, ConfigError> {
    if json.len() > MAX_SIZE {
        return Err(ConfigError::TooLarge(json.len()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(value) => value,
        Err(error) if error.inner().is_data() => {
            let explained = explain(json, parent, error.path(), error.inner());
            let of_flags = matches!(&explained, ConfigError::Invalid { field, .. }
                if field.starts_with("process.scheduler.flags"));
            let renamed = of_flags.then(|| with_flags_renamed(json, parent));
            return match renamed.flatten() {
                Some(renamed) => parse(&renamed, parent),
                None => Err(explained),
            };
        }
        Err(error) => return Err(ConfigError::Json(error.into_inner())),
    };
    deserializer.end().map_err(ConfigError::Json)?;
    Ok(value)
}

/// The document with oci-spec's names of two flags in the place of the runtime spec's; `None`
/// if it has none of them.
fn with_flags_renamed(json: &[u8], parent: &str) -> Option<Vec<u8>> {
    let mut document: serde_json::Value = serde_json::from_slice(json).ok()?;
    let process = match parent {
        "" => document.get_mut("process")?,
        _ => &mut document,
    };
    let flags = process.pointer_mut("/scheduler/flags")?.as_array_mut()?;
    let mut renamed = false;
    for flag in flags {
        let name = match flag.as_str()? {
            "SCHED_FLAG_RESET_ON_FORK" => "SCHED_RESET_ON_FORK",
            "SCHED_FLAG_DL_OVERRUN" => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = name.into();
        renamed = true;
    }
    renamed.then(|| document.to_string().into_bytes())
}

/// Makes `root.path` and the sources of bind mounts absolute: relative ones are so to the
/// bundle.
pub fn resolve_paths(spec: &mut Spec, bundle: &Path) {
    if let Some(root) = spec.root().clone() {
        let mut root = root;
        let path = bundle.join(root.path());
        root.set_path(path);
        spec.set_root(Some(root));
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let options = mount.options().as_deref().unwrap_or_default();
        let bind = mount.typ().as_deref() == Some("bind")
            || options.iter().any(|o| o == "bind" || o == "rbind");
        if let Some(source) = mount.source().as_ref().filter(|_| bind) {
            let source = bundle.join(source);
            mount.set_source(Some(source));
        }
    }
}

/// Says what is wrong with a value that doesn't fit its field. Where a field takes a name out
/// of many, the list of them all helps nobody.
fn explain(
    json: &[u8],
    parent: &str,
    path: &serde_path_to_error::Path,
    error: &serde_json::Error,
) -> ConfigError {
    let field = match path.to_string().as_str() {
        // Of the document itself.
        "." if parent.is_empty() => ".".to_owned(),
        "." => parent.trim_end_matches('.').to_owned(),
        field => format!("{parent}{field}"),
    };
    let value = serde_json::from_slice::<serde_json::Value>(json)
        .ok()
        .and_then(|document| value_at(&document, path));
    let plain: String = field
        .chars()
        .filter(|c| !c.is_ascii_digit() && !matches!(c, '[' | ']'))
        .collect();
    let what = match plain.as_str() {
        p if p.starts_with("process.capabilities.") => "a capability",
        "process.rlimits.type" => "a resource limit",
        "process.scheduler.policy" => "a scheduling policy",
        "process.scheduler.flags" => "a scheduling flag",
        "linux.namespaces.type" => "a kind of namespace",
        "linux.seccomp.defaultAction" | "linux.seccomp.syscalls.action" => "an action",
        "linux.seccomp.architectures" => "an architecture",
        "linux.seccomp.flags" => "a flag",
        "linux.seccomp.syscalls.args.op" => "a comparison",
        "linux.devices.type" | "linux.resources.devices.type" => "a type of device",
        _ => "",
    };
    match value {
        Some(serde_json::Value::String(value)) if !what.is_empty() => {
            ConfigError::invalid(field, format!("{value:?} isn't {what} that is known"))
        }
        _ => {
            let words = error.to_string();
            // serde says "missing field `x`" of the object that lacks it.
            if let Some(name) = words
                .strip_prefix("missing field `")
                .and_then(|rest| rest.split('`').next())
            {
                return ConfigError::missing(match field.as_str() {
                    "." => name.to_owned(),
                    _ => format!("{field}.{name}"),
                });
            }
            ConfigError::invalid(field, words)
        }
    }
}

fn value_at(
    document: &serde_json::Value,
    path: &serde_path_to_error::Path,
) -> Option<serde_json::Value> {
    path.iter()
        .try_fold(document, |value, segment| match segment {
            Segment::Seq { index } => value.get(index),
            Segment::Map { key } => value.get(key),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::describe;
    use serde_json::{Value, json};

    /// What `runc spec` writes, without its terminal.
    pub(super) fn sample() -> Value {
        serde_json::from_str(include_str!("testdata/runc-spec.json")).unwrap()
    }

    fn load_value(value: &Value) -> Result<Spec, String> {
        load(value.to_string().as_bytes()).map_err(|e| describe(&e))
    }

    #[test]
    fn what_runc_writes_is_taken() {
        let spec = load_value(&sample()).unwrap();
        assert_eq!(spec.mounts().as_ref().unwrap().len(), 7);
    }

    #[test]
    fn what_is_not_json_is_said_to_be_so_and_where() {
        for (json, error) in [
            (
                "",
                "it isn't valid JSON: EOF while parsing a value at line 1 column 0",
            ),
            (
                "{\n  \"ociVersion\" \"1.0.2\"\n}",
                "it isn't valid JSON: expected `:` at line 2 column 16",
            ),
            (
                "{} x",
                "it isn't valid JSON: trailing characters at line 1 column 4",
            ),
        ] {
            let found = load(json.as_bytes()).unwrap_err().to_string();
            assert!(found.starts_with(error), "{found}");
            assert!(found.contains(" at line "), "{found}");
        }
        let deep = "[".repeat(100_000);
        assert!(matches!(
            load(deep.as_bytes()),
            Err(ConfigError::Json(_) | ConfigError::Invalid { .. })
        ));
        let huge = vec![b' '; MAX_SIZE + 1];
        assert!(matches!(load(&huge), Err(ConfigError::TooLarge(_))));
    }

    #[test]
    fn values_that_do_not_fit_are_named_with_their_field() {
        for (pointer, value, error) in [
            (
                "/process/capabilities/bounding",
                json!(["CAP_KILL", "CAP_FLY"]),
                "process.capabilities.bounding[1]: \"CAP_FLY\" isn't a capability that is known",
            ),
            (
                "/process/rlimits/0/type",
                json!("RLIMIT_X"),
                "process.rlimits[0].type: \"RLIMIT_X\" isn't a resource limit that is known",
            ),
            (
                "/linux/namespaces/2/type",
                json!("dream"),
                "linux.namespaces[2].type: \"dream\" isn't a kind of namespace that is known",
            ),
            (
                "/linux/resources/devices",
                json!([{"allow": true, "type": "q"}]),
                "linux.resources.devices[0].type: \"q\" isn't a type of device that is known",
            ),
            (
                "/process/user",
                json!({"uid": -1}),
                "process.user.uid: invalid value: integer `-1`, expected u32",
            ),
            (
                "/process/args",
                json!("sh"),
                "process.args: invalid type: string \"sh\", expected a sequence",
            ),
        ] {
            let mut config = sample();
            *config.pointer_mut(pointer).unwrap() = value;
            let found = load_value(&config).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn words_of_a_filter_that_are_not_known_are_named() {
        let with = |seccomp: Value| {
            let mut config = sample();
            config["linux"]["seccomp"] = seccomp;
            load_value(&config).unwrap_err()
        };
        for (seccomp, error) in [
            (
                json!({"defaultAction": "ALLOW"}),
                "linux.seccomp.defaultAction: \"ALLOW\" isn't an action that is known",
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}),
                "linux.seccomp.flags[0]: \"X\" isn't a flag that is known",
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["X"]}),
                "linux.seccomp.architectures[0]: \"X\" isn't an architecture that is known",
            ),
        ] {
            assert_eq!(with(seccomp), error);
        }
    }

    #[test]
    fn fields_that_must_be_are_missed_by_their_full_name() {
        for (parent, name) in [
            ("/process", "cwd"),
            ("/process", "user"),
            ("/process", "args"),
            ("/mounts/0", "destination"),
            ("/linux/namespaces/0", "type"),
            ("", "process"),
            ("", "root"),
            ("", "ociVersion"),
        ] {
            let mut config = sample();
            let object = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            object.remove(name).unwrap();
            let field = format!("{parent}/{name}");
            let field = field[1..].replace("/0", "[0]").replace('/', ".");
            assert_eq!(
                load_value(&config).unwrap_err(),
                format!("{field} is missing")
            );
        }
    }

    #[test]
    fn a_process_alone_has_its_fields_named_as_in_a_configuration() {
        let process = sample()["process"].clone();
        let load = |value: &Value| load_process(value.to_string().as_bytes()).map(drop);
        load(&process).unwrap();
        for (name, value, error) in [
            ("cwd", Value::Null, "process.cwd: invalid type: null"),
            ("cwd", json!("x"), "process.cwd: \"x\" isn't absolute"),
            (
                "rlimits",
                json!([{"type": "x", "soft": 1, "hard": 1}]),
                "process.rlimits[0].type: \"x\" isn't a resource limit that is known",
            ),
        ] {
            let mut process = process.clone();
            process[name] = value;
            let found = load(&process).unwrap_err().to_string();
            assert!(found.starts_with(error), "{found}");
        }
        let mut without = process.clone();
        without.as_object_mut().unwrap().remove("user");
        let found = load(&without).unwrap_err().to_string();
        assert_eq!(found, "process.user is missing");
    }

    #[test]
    fn scheduling_flags_have_the_specs_names() {
        let all = [
            "RESET_ON_FORK",
            "RECLAIM",
            "DL_OVERRUN",
            "KEEP_POLICY",
            "KEEP_PARAMS",
            "UTIL_CLAMP_MIN",
            "UTIL_CLAMP_MAX",
        ];
        let mut config = sample();
        let flags = all.map(|name| format!("SCHED_FLAG_{name}"));
        config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "flags": flags});
        load_value(&config).unwrap();
        load_process(config["process"].to_string().as_bytes()).unwrap();
        config["process"]["scheduler"]["flags"][1] = json!("SCHED_FLAG_X");
        let words = "\"SCHED_FLAG_X\" isn't a scheduling flag that is known";
        let found = load_value(&config).unwrap_err();
        assert_eq!(found, format!("process.scheduler.flags[1]: {words}"));
    }

    #[test]
    fn paths_are_relative_to_the_bundle() {
        let mut config = sample();
        config["mounts"] = json!([
            {"destination": "/a", "source": "data", "options": ["rbind"]},
            {"destination": "/b", "source": "/data", "type": "bind"},
            {"destination": "/c", "source": "tmpfs", "type": "tmpfs"},
        ]);
        let mut spec = load_value(&config).unwrap();
        resolve_paths(&mut spec, Path::new("/bundle"));
        assert_eq!(
            spec.root().as_ref().unwrap().path(),
            Path::new("/bundle/rootfs")
        );
        let sources: Vec<_> = spec
            .mounts()
            .iter()
            .flatten()
            .map(|m| m.source().clone().unwrap())
            .collect();
        assert_eq!(
            sources,
            [
                Path::new("/bundle/data"),
                Path::new("/data"),
                Path::new("tmpfs")
            ]
        );
    }
}
