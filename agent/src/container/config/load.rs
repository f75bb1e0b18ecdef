//! Reads `config.json`.

use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::error::{ConfigError, MAX_SIZE};
use super::left_out;
use super::mount_options::bound_extent;
use super::process::validate_process;
use super::validate::validate;

/// Parses a `config.json` and checks everything that can be checked without touching the system.
///
/// # Errors
///
/// See [`ConfigError`]; it has the path of the field.
pub fn load(json: &[u8]) -> Result<Spec, ConfigError> {
    read(json).map(|(spec, _)| spec)
}

/// As [`load`], and also returns lines for the log: what is left out of the configuration.
///
/// # Errors
///
/// See [`ConfigError`]; it has the path of the field.
pub fn read(json: &[u8]) -> Result<(Spec, Vec<String>), ConfigError> {
    let mut lines = Vec::new();
    let spec = parse(json, "", &mut lines)?;
    validate(&spec)?;
    lines.extend(left_out::from_spec(&spec));
    Ok((spec, lines))
}

/// As [`read`], for a `process` alone, which is to be started in a running container.
///
/// # Errors
///
/// See [`ConfigError`]. The field's path begins with `process`.
pub fn read_process(json: &[u8]) -> Result<(Process, Vec<String>), ConfigError> {
    let mut lines = Vec::new();
    let process = parse(json, "process.", &mut lines)?;
    validate_process(&process)?;
    lines.extend(left_out::from_process(&process));
    Ok((process, lines))
}

/// Parses a document whose fields have paths in the configuration that begin with `parent`. Adds
/// what is left out to `lines`.
fn parse<T: DeserializeOwned>(
    json: &[u8],
    parent: &str,
    lines: &mut Vec<String>,
) -> Result<T, ConfigError> {
    if json.len() > MAX_SIZE {
        return Err(ConfigError::TooLarge(json.len()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(value) => value,
        Err(error) if error.inner().is_data() => {
            let explained = explain(json, parent, error.path(), error.inner());
            let ConfigError::Invalid { field, .. } = &explained else {
                return Err(explained);
            };
            let mended = mended(json, parent, field, lines);
            return match mended {
                Some(mended) => parse(&mended, parent, lines),
                None => Err(explained),
            };
        }
        Err(error) => return Err(ConfigError::Json(error.into_inner())),
    };
    deserializer.end().map_err(ConfigError::Json)?;
    Ok(value)
}

/// Returns the document without the values at `field` that needn't be errors; `None` if it has none
/// of these.
fn mended(json: &[u8], parent: &str, field: &str, lines: &mut Vec<String>) -> Option<Vec<u8>> {
    let mut document: serde_json::Value = serde_json::from_slice(json).ok()?;
    let process = match parent {
        "" => document.get_mut("process")?,
        _ => &mut document,
    };
    if field.starts_with("process.scheduler.flags") {
        rename_flags(process)?;
    } else if field.starts_with("process.capabilities.") {
        lines.push(left_out::unknown_capabilities(process)?);
    } else {
        return None;
    }
    Some(document.to_string().into_bytes())
}

/// Replaces the runtime spec's names of two flags by oci-spec's; `None` if neither is present.
fn rename_flags(process: &mut serde_json::Value) -> Option<()> {
    let flags = process.pointer_mut("/scheduler/flags")?.as_array_mut()?;
    let mut renamed = None;
    for flag in flags {
        let name = match flag.as_str()? {
            "SCHED_FLAG_RESET_ON_FORK" => "SCHED_RESET_ON_FORK",
            "SCHED_FLAG_DL_OVERRUN" => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = name.into();
        renamed = Some(());
    }
    renamed
}

/// Makes `root.path` and the sources of bind mounts absolute: relative ones are relative to the
/// bundle.
pub fn resolve_paths(spec: &mut Spec, bundle: &Path) {
    if let Some(root) = spec.root().clone() {
        let mut root = root;
        let path = bundle.join(root.path());
        root.set_path(path);
        spec.set_root(Some(root));
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if bound_extent(mount).is_some()
            && let Some(source) = mount.source()
        {
            let source = bundle.join(source);
            mount.set_source(Some(source));
        }
    }
}

/// Describes what is wrong with a value that doesn't fit its field. Where a field takes one of many
/// names, listing them all helps nobody.
fn explain(
    json: &[u8],
    parent: &str,
    path: &serde_path_to_error::Path,
    error: &serde_json::Error,
) -> ConfigError {
    let field = match path.to_string().as_str() {
        // The path of the document itself.
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
            // serde reports "missing field `x`" for the object that lacks it.
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
pub(super) mod tests {
    use super::*;
    use crate::container::error::describe;
    use serde_json::{Value, json};

    /// Returns what `runc spec` writes, without its terminal.
    pub(crate) fn sample() -> Value {
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
                json!(["CAP_KILL", 1]),
                "process.capabilities.bounding[1]: invalid type: integer `1`, expected a string",
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
        let load = |value: &Value| read_process(value.to_string().as_bytes()).map(drop);
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
        read_process(config["process"].to_string().as_bytes()).unwrap();
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
