//! The systemd unit of a container: `linux.cgroupsPath` as `slice:prefix:name`.

use std::path::Path;

use super::{Property, Value};
use crate::container::cgroups::CgroupError;

/// A container's scope.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The name with its suffix.
    pub(super) name: String,
    slice: String,
    description: String,
}

impl Unit {
    /// Returns the unit that `path` names. Without a path it is `nacre-<id>.scope` in the slice of
    /// the system's services, or of a user's programs.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Path`] if it isn't of that form, or names no unit.
    pub(super) fn named(path: Option<&Path>, id: &str, user: bool) -> Result<Self, CgroupError> {
        let error = |reason| CgroupError::Path {
            path: path.unwrap_or(Path::new(id)).to_owned(),
            reason,
        };
        let text = match path.map(Path::to_str) {
            None => &format!(":nacre:{id}"),
            Some(Some(text)) => text,
            Some(None) => return Err(error("it isn't UTF-8")),
        };
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            let reason = "with systemd as the manager of cgroups, it must be slice:prefix:name";
            return Err(error(reason));
        };
        let slice = match (slice, user) {
            ("", false) => "system.slice",
            ("", true) => "user.slice",
            (given, _) => given,
        };
        if !slice.ends_with(".slice") {
            return Err(error("its slice doesn't end in .slice"));
        }
        if name.is_empty() || name.ends_with(".slice") {
            return Err(error("it must name a scope"));
        }
        let name = match prefix {
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        // systemd.unit(5)
        let is_name = |name: &str| {
            let sound = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
            name.len() < 256 && name.bytes().all(sound)
        };
        if !is_name(&name) || !is_name(slice) {
            return Err(error("it can't be a unit's name"));
        }
        Ok(Unit {
            name,
            slice: slice.to_owned(),
            description: format!("nacre container {id}"),
        })
    }

    /// Returns the properties that make it a container's: it starts with this process, its cgroup
    /// is the engine's to use, usage is counted, and it is forgotten when it ends, however it does.
    pub(super) fn properties(&self, pid: i32) -> Vec<Property> {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut properties: Vec<Property> = vec![
            ("Description".into(), text(&self.description)),
            ("Slice".into(), text(&self.slice)),
            ("Delegate".into(), Value::Bool(true)),
            ("DefaultDependencies".into(), Value::Bool(false)),
            ("CollectMode".into(), text("inactive-or-failed")),
            ("PIDs".into(), Value::Pids(vec![pid.unsigned_abs()])),
        ];
        for accounting in ["CPU", "Memory", "Tasks", "IO"] {
            properties.push((format!("{accounting}Accounting"), Value::Bool(true)));
        }
        properties
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: Option<&str>, user: bool) -> Result<(String, String), String> {
        Unit::named(path.map(Path::new), "web", user)
            .map(|unit| (unit.slice, unit.name))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_path_is_a_slice_and_a_scope() {
        for (path, user, slice, name) in [
            (None, false, "system.slice", "nacre-web.scope"),
            (None, true, "user.slice", "nacre-web.scope"),
            (
                Some("machine.slice:libpod:1f"),
                false,
                "machine.slice",
                "libpod-1f.scope",
            ),
            (Some(":docker:1f"), false, "system.slice", "docker-1f.scope"),
            (Some("a-b.slice::1f"), true, "a-b.slice", "1f.scope"),
        ] {
            let expected = (slice.to_owned(), name.to_owned());
            assert_eq!(unit(path, user), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_unit_is_refused_by_name() {
        for path in [
            "/a/b",
            "a",
            "a:b:c",
            "a.slice:b:",
            "a.slice::b.slice",
            "a.slice:b:c d",
        ] {
            let error = unit(Some(path), false).unwrap_err();
            assert!(error.starts_with("linux.cgroupsPath "), "{path}: {error}");
        }
    }
}
