//! What a container may leave on a machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};

/// Mounts, cgroups and this process's descriptors and children.
pub(crate) fn now() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().map(|line| format!("mount {line}")));
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        // The directory's own descriptor is closed by the time this is looked up.
        if let Ok(target) = fs::read_link(entry.path()) {
            let fd = entry.file_name();
            found.insert(format!("descriptor {} {}", fd.display(), target.display()));
        }
    }
    cgroups(Path::new("/sys/fs/cgroup"), &mut found);
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Err(Errno::ECHILD) => {}
        other => drop(found.insert(format!("child {other:?}"))),
    }
    found
}

/// In all hierarchies, of both versions.
fn cgroups(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Others may make and remove cgroups on this machine meanwhile, another run of these
            // tests too.
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("nacre-") && name.contains(&format!("-{}", std::process::id())) {
                found.insert(format!("cgroup {}", entry.path().display()));
            }
            cgroups(&entry.path(), found);
        }
    }
}

/// What wasn't there before, and the mounts that are gone.
pub(crate) fn since(before: &BTreeSet<String>) -> Vec<String> {
    let now = now();
    let lost = before.difference(&now).filter(|l| l.starts_with("mount "));
    let new = now.difference(before).cloned();
    new.chain(lost.map(|mount| format!("lost: {mount}")))
        .collect()
}
