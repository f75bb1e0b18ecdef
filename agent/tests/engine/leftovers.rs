//! Finds what a container may leave on a machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Returns the mounts, cgroups and this process's descriptors and children.
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
    children(&mut found);
    found
}

/// Looks for children by their pids, whatever their states: one that was there before the test, as
/// a caller's job may be whose shell has become this process, may end meanwhile.
fn children(found: &mut BTreeSet<String>) {
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // A process may end while it is inspected.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // Its pid, its name in parentheses, its state and its parent's pid (proc_pid_stat(5)).
        if let Some((process, rest)) = stat.rsplit_once(") ")
            && rest.split(' ').nth(1) == Some(&own)
        {
            found.insert(format!("child {process})"));
        }
    }
}

/// Looks in all hierarchies, of both versions.
fn cgroups(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Others may make and remove cgroups on this machine meanwhile, including another run
            // of these tests.
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("nacre-") && name.contains(&format!("-{}", std::process::id())) {
                found.insert(format!("cgroup {}", entry.path().display()));
            }
            cgroups(&entry.path(), found);
        }
    }
}

/// Returns what wasn't there before, and the mounts that are gone.
pub(crate) fn since(before: &BTreeSet<String>) -> Vec<String> {
    let now = now();
    let lost = before.difference(&now).filter(|l| l.starts_with("mount "));
    let new = now.difference(before).cloned();
    new.chain(lost.map(|mount| format!("lost: {mount}")))
        .collect()
}
