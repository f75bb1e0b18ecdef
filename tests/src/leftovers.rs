//! Finds what should be gone after a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;

use crate::place;

/// The environment variable that marks a test's processes, with the test's id.
pub const MARK: &str = "NACRE_TEST_CASE";

/// Returns the processes, except zombies, of the test with this id, each with a line that describes
/// it: those with its mark in their environment and, because a container's processes don't have it
/// and a client's monitors may not, those with the id in their command line, their cgroup's path or
/// what is mounted at their root.
pub fn processes(id: &str) -> Vec<(Pid, String)> {
    let mark = format!("{MARK}={id}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|s| s.parse::<i32>().ok())
        else {
            continue;
        };
        // A process may end while it is inspected; then, and when it is a zombie, there is nothing
        // to read.
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let command = read("cmdline");
        if has_variable(&read("environ"), &mark)
            || contains(&command, id)
            || !command.is_empty()
                && (contains(&read("cgroup"), id) || root_is_of(&read("mountinfo"), id))
        {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push((Pid::from_raw(pid), format!("process {pid}: {command}")));
        }
    }
    found
}

/// Returns the processes that are still there when all should be gone, after waiting up to
/// `patience`: a killed process is listed until the kernel has torn it down, and a client's helper
/// may end a moment after what it helped with.
pub fn settled_processes(id: &str, patience: Duration) -> Vec<(Pid, String)> {
    let end = Instant::now() + patience;
    loop {
        let left = processes(id);
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Returns those of them that aren't a QEMU that emulates a VM.
pub fn processes_of_nacre(id: &str) -> Vec<Pid> {
    let is_qemu = |pid: &Pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.starts_with("qemu"))
    };
    let mut pids: Vec<_> = processes(id).into_iter().map(|(pid, _)| pid).collect();
    pids.retain(|pid| !is_qemu(pid));
    pids
}

/// Returns whether an environment has this variable with this value.
fn has_variable(environment: &[u8], variable: &str) -> bool {
    environment
        .split(|byte| *byte == 0)
        .any(|other| other == variable.as_bytes())
}

fn contains(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

/// Returns whether `text` is in what a process has mounted at its root (proc_pid_mountinfo(5)).
fn root_is_of(mounts: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(mounts)
        .lines()
        .any(|line| line.split(' ').nth(4) == Some("/") && line.contains(text))
}

/// Kills the processes of the test with this id and describes them.
pub fn kill(id: &str) -> Vec<String> {
    processes(id)
        .into_iter()
        .map(|(pid, line)| {
            // The process may be gone already.
            let _ = signal(pid, Signal::SIGKILL);
            line
        })
        .collect()
}

/// Returns the files below a directory.
pub fn files(directory: &Path) -> Vec<String> {
    walk(directory)
        .iter()
        .map(|path| format!("file: {}", path.display()))
        .collect()
}

/// Returns this process's mounts.
pub fn mounts() -> Vec<String> {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    info.lines().map(str::to_owned).collect()
}

/// Unmounts what is mounted below a directory, the latest first, as it may be on an earlier mount.
pub fn unmount(directory: &Path) {
    let mounts = mounts();
    let targets: Vec<&str> = mounts
        .iter()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|target| Path::new(target).starts_with(directory))
        .collect();
    for target in targets.into_iter().rev() {
        // A mount that resists keeps the directory, which the check at the end finds.
        let _ = umount2(target, MntFlags::MNT_DETACH);
    }
}

/// Returns the cgroups with `name` in their path.
pub fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut paths = cgroups();
    paths.retain(|path| path.to_string_lossy().contains(name));
    paths
}

/// Removes those that have no processes any more. A killed process stays in its cgroup, though it
/// can't be identified any more, until the kernel has torn it down, which takes a while on a busy
/// machine.
pub fn remove_cgroups_named(name: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let mut paths = cgroups_named(name);
        // The inner ones first.
        paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for path in &paths {
            // A cgroup that stays in use is found again by the check at the end.
            let _ = fs::remove_dir(path);
        }
        if paths.is_empty() || Instant::now() > end {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Removes the cgroups, in any hierarchy, whose paths end like this, if they are empty.
pub fn remove_empty_cgroups(end: &str) {
    for path in cgroups() {
        if path.to_string_lossy().ends_with(end) {
            // If it isn't empty, somebody uses it.
            let _ = fs::remove_dir(path);
        }
    }
}

/// Directories that `ip netns`, Podman, containerd and Docker make where they are missing, and
/// leave.
const MADE_ONCE: [&str; 5] = [
    "/run/containerd",
    "/run/containers",
    "/run/docker",
    "/run/nacre",
    "/run/netns",
];

/// Returns the state of the whole system as far as tests may leave something in it: cgroups, and
/// the entries of directories where programs put things. Where other programs run too, only what
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
        .filter(|path| !MADE_ONCE.contains(&path.as_str()))
        .collect()
}

/// Returns what is in `after` and not in `before`.
pub fn since(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    after.difference(before).cloned().collect()
}

fn cgroups() -> Vec<PathBuf> {
    let mut all = walk(Path::new("/sys/fs/cgroup"));
    all.retain(|path| path.is_dir());
    all
}

/// Returns everything below a directory, without following symbolic links.
pub fn walk(directory: &Path) -> Vec<PathBuf> {
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
