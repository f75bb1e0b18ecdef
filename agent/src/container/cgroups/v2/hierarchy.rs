//! The one hierarchy of version 2, in which controllers are enabled level by level.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use crate::container::cgroups::directory::Directory;
use crate::container::cgroups::error::CgroupError;
use crate::container::cgroups::setting::{self, Setting, keyed, write};

/// Makes a directory below the mount, with every available controller.
pub(crate) fn make(mount: &Path, path: &Path) -> Result<Directory, CgroupError> {
    Directory::make(mount, path, &delegate_controllers)
}

/// Takes over a directory that somebody else made, and enables the controllers that they left out.
pub(crate) fn adopt(mount: &Path, path: &Path) -> Result<Directory, CgroupError> {
    let mut current = mount.to_owned();
    for component in path {
        delegate_controllers(&current)?;
        current.push(component);
    }
    Ok(Directory::existing(current))
}

/// Enables every controller that a cgroup has for its children.
fn delegate_controllers(directory: &Path) -> Result<(), CgroupError> {
    let read = |name: &str| {
        let file = directory.join(name);
        setting::read(&file).map_err(CgroupError::directory("read", &file))
    };
    let enabled = read("cgroup.subtree_control")?;
    let missing: Vec<String> = read("cgroup.controllers")?
        .split_whitespace()
        .filter(|controller| !enabled.split_whitespace().any(|e| e == *controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let file = directory.join("cgroup.subtree_control");
    if write(&file, &missing.join(" ")).is_err() {
        // One that can't be enabled (cpu while there are realtime processes, say) must not cost the
        // others. A limit that needs it is refused later, by name.
        for controller in missing {
            let _ = write(&file, &controller);
        }
    }
    Ok(())
}

/// Returns the settings with the directory to write them in, which must have their controllers.
pub(crate) fn with_controllers<'a>(
    directory: &'a Directory,
    settings: &'a [Setting],
) -> Result<Vec<(&'a Path, &'a Setting)>, CgroupError> {
    if settings.is_empty() {
        return Ok(Vec::new());
    }
    let path = directory.path.as_path();
    let file = path.join("cgroup.controllers");
    let controllers = setting::read(&file).map_err(CgroupError::directory("read", &file))?;
    for setting in settings {
        if let Some(controller) = setting.controller()
            && !controllers.split_whitespace().any(|c| c == controller)
        {
            return Err(CgroupError::NoController {
                field: setting.field.clone(),
                controller: controller.to_owned(),
                parent: path.parent().unwrap_or(Path::new("/")).to_owned(),
            });
        }
    }
    Ok(settings.iter().map(|setting| (path, setting)).collect())
}

/// Returns the count of `memory.events`, which is for the whole subtree.
pub(crate) fn oom_kills(directory: &Path) -> Result<u64, CgroupError> {
    let file = directory.join("memory.events");
    match fs::read_to_string(&file) {
        Ok(events) => Ok(keyed(&events, "oom_kill").unwrap_or(0)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
        Err(e) => Err(CgroupError::directory("read", &file)(e)),
    }
}

/// Returns `resources`, completed by the present values of what can only be written together with
/// what they give.
pub(crate) fn with_present(
    directory: &Path,
    resources: &LinuxResources,
) -> Result<LinuxResources, CgroupError> {
    let mut resources = resources.clone();
    let read = |name: &str| {
        let file = directory.join(name);
        match fs::read_to_string(&file) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(String::new()),
            other => other.map_err(CgroupError::directory("read", &file)),
        }
    };
    let given = |number: Option<i64>| number.is_some_and(|number| number != 0);
    // The spec's limit on swap includes that on memory.
    if let Some(memory) = resources.memory().as_ref()
        && given(memory.swap())
        && !given(memory.limit())
    {
        let mut memory = *memory;
        memory.set_limit(number(read("memory.max")?.trim()));
        resources.set_memory(Some(memory));
    }
    // One file has both quota and period.
    if let Some(cpu) = resources.cpu().as_ref()
        && given(cpu.quota()) != cpu.period().is_some_and(|period| period != 0)
    {
        let mut cpu = cpu.clone();
        let present = read("cpu.max")?;
        let mut present = present.split_whitespace();
        let quota = present.next().and_then(number);
        if given(cpu.quota()) {
            cpu.set_period(present.next().and_then(|period| period.parse().ok()));
        } else {
            cpu.set_quota(quota);
        }
        resources.set_cpu(Some(cpu));
    }
    Ok(resources)
}

/// Parses a number, with -1 for `max`.
fn number(text: &str) -> Option<i64> {
    match text {
        "max" => Some(-1),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_together_is_completed_from_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("memory.max"), "4096\n").unwrap();
        fs::write(directory.path().join("cpu.max"), "max 50000\n").unwrap();
        for (given, expected) in [
            (
                r#"{"memory": {"swap": 8192}}"#,
                r#"{"memory": {"swap": 8192, "limit": 4096}}"#,
            ),
            (
                r#"{"memory": {"swap": 8192, "limit": 1}}"#,
                r#"{"memory": {"swap": 8192, "limit": 1}}"#,
            ),
            (
                r#"{"cpu": {"quota": 2000}}"#,
                r#"{"cpu": {"quota": 2000, "period": 50000}}"#,
            ),
            (
                r#"{"cpu": {"period": 20000}}"#,
                r#"{"cpu": {"quota": -1, "period": 20000}}"#,
            ),
            (r#"{"cpu": {"shares": 2}}"#, r#"{"cpu": {"shares": 2}}"#),
        ] {
            let given: LinuxResources = serde_json::from_str(given).unwrap();
            let expected: LinuxResources = serde_json::from_str(expected).unwrap();
            assert_eq!(with_present(directory.path(), &given).unwrap(), expected);
        }
    }
}
