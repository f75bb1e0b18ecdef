//! Version 2: one hierarchy, in which controllers are enabled level by level.

pub(super) mod bpf;
pub(super) mod cpu;
pub(super) mod devices;
pub(super) mod hugetlb;
pub(super) mod io;
pub(super) mod memory;
pub(super) mod unified;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::CgroupError;
use super::directory::Directory;
use super::setting::{Setting, keyed, write};

/// Makes a directory below the mount, with every controller that can be had.
pub(super) fn make(mount: &Path, path: &Path) -> Result<Directory, CgroupError> {
    Directory::make(mount, path, &delegate_controllers)
}

/// Lets children of a cgroup have every controller that it has.
fn delegate_controllers(directory: &Path) -> Result<(), CgroupError> {
    let read = |name: &str| {
        let file = directory.join(name);
        fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))
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
        // One that can't be had (cpu with realtime processes about, say) must not cost the
        // others. A limit that needs it is refused later, by name.
        for controller in missing {
            let _ = write(&file, &controller);
        }
    }
    Ok(())
}

/// The settings with the directory to write them in, which must have their controllers.
pub(super) fn with_controllers<'a>(
    directory: &'a Directory,
    settings: &'a [Setting],
) -> Result<Vec<(&'a Path, &'a Setting)>, CgroupError> {
    if settings.is_empty() {
        return Ok(Vec::new());
    }
    let path = directory.path.as_path();
    let file = path.join("cgroup.controllers");
    let controllers = fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))?;
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

/// The count of `memory.events`, which is of the whole subtree.
pub(super) fn oom_kills(directory: &Path) -> Result<u64, CgroupError> {
    let file = directory.join("memory.events");
    match fs::read_to_string(&file) {
        Ok(events) => Ok(keyed(&events, "oom_kill").unwrap_or(0)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
        Err(e) => Err(CgroupError::directory("read", &file)(e)),
    }
}
