//! Finds what should be gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;

use crate::place;

/// The processes, zombies apart, that have `mark` in their environment, each with a line
/// that describes it.
pub fn processes(mark: &str) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|s| s.parse::<i32>().ok())
        else {
            continue;
        };
        // A process may end while it is looked at.
        let Ok(environment) = fs::read(entry.path().join("environ")) else {
            continue;
        };
        if environment.split(|b| *b == 0).any(|v| v == mark.as_bytes()) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push((Pid::from_raw(pid), format!("process {pid}: {command}")));
        }
    }
    found
}

/// Kills the processes that have `mark` in their environment and describes them.
pub fn kill(mark: &str) -> Vec<String> {
    processes(mark)
        .into_iter()
        .map(|(pid, line)| {
            // It may be gone already.
            let _ = signal(pid, Signal::SIGKILL);
            line
        })
        .collect()
}

/// The files below a directory.
pub fn files(directory: &Path) -> Vec<String> {
    walk(directory)
        .iter()
        .map(|path| format!("file: {}", path.display()))
        .collect()
}

/// This process's mounts.
pub fn mounts() -> Vec<String> {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    info.lines().map(str::to_owned).collect()
}

/// The cgroups with `name` in their path.
pub fn cgroups_named(name: &str) -> Vec<String> {
    cgroups()
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(name))
        .map(|path| format!("cgroup: {}", path.display()))
        .collect()
}

/// The state of the whole system as far as tests may leave something in it: cgroups, and
/// the entries of places where programs put things. Where other programs run too, only what
/// has the name of a test of this process counts.
pub fn system() -> BTreeSet<String> {
    let mut paths = cgroups();
    for place in ["/tmp", "/run", "/run/nacre", "/dev/shm"] {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        paths.extend(entries.map(|entry| entry.path()));
    }
    let ours = format!("nacre-test-{}-", std::process::id());
    paths
        .iter()
        .map(|path| path.display().to_string())
        .filter(|path| place::in_testbed() || path.contains(&ours))
        .collect()
}

/// What is in `after` and not in `before`.
pub fn since(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    after.difference(before).cloned().collect()
}

fn cgroups() -> Vec<PathBuf> {
    let mut all = walk(Path::new("/sys/fs/cgroup"));
    all.retain(|path| path.is_dir());
    all
}

/// Everything below a directory, without following symbolic links.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}
