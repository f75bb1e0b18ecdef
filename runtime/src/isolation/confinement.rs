//! What confines a process of a container, as `/proc` shows it at that moment.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use nacre_agent::container::outside::mount_lines;
use serde::Serialize;

use crate::config::CAPABILITIES;

/// The kinds of namespaces, by the names that `config.json` and `/proc/PID/ns` have for them.
const NAMESPACES: [(&str, &str); 8] = [
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("mount", "mnt"),
    ("network", "net"),
    ("pid", "pid"),
    ("time", "time"),
    ("user", "user"),
    ("uts", "uts"),
];

/// The sets of capabilities, by the names that `config.json` and `/proc/PID/status` have for them.
const SETS: [(&str, &str); 5] = [
    ("ambient", "CapAmb"),
    ("bounding", "CapBnd"),
    ("effective", "CapEff"),
    ("inheritable", "CapInh"),
    ("permitted", "CapPrm"),
];

/// How many of a process's threads are looked at, of which a container can make as many as it likes.
const MOST_THREADS: usize = 512;

/// What confines a process.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Confinement {
    /// Its part in the container.
    process: &'static str,
    pid: i32,
    uid: u32,
    gid: u32,
    /// What any of its threads has, by sets. Sets with nothing in them are left out.
    capabilities: BTreeMap<&'static str, Vec<&'static str>>,
    /// Whether no thread gains rights by what it executes.
    no_new_privileges: bool,
    /// How many system call filters every thread has at least.
    seccomp_filters: u32,
    /// Whether Landlock keeps it from files, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    landlock: Option<bool>,
    /// Those in which the process that asks isn't; nothing if it may not find out.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<Root>,
    /// The label that a security module of the kernel has given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

/// What is mounted where a process can see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    file_system: String,
    read_only: bool,
    /// How many mounts there are, the root among them.
    mounts: usize,
}

impl Confinement {
    /// Reads it; returns `None` if the process has ended.
    pub(super) fn of(process: &'static str, pid: i32) -> Option<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let main = Status::read(directory.join("status"))?;
        let tasks = fs::read_dir(directory.join("task")).ok()?.flatten();
        let tasks = tasks.take(MOST_THREADS);
        let threads = tasks.filter_map(|task| Status::read(task.path().join("status")));
        let threads: Vec<Status> = threads.collect();
        if threads.is_empty() {
            return None;
        }
        let held = SETS.map(|(name, field)| {
            let of_all = threads.iter().filter_map(|thread| thread.set(field));
            (name, names(of_all.fold(0, |all, one| all | one)))
        });
        Some(Self {
            process,
            pid,
            uid: main.number("Uid")?,
            gid: main.number("Gid")?,
            capabilities: held
                .into_iter()
                .filter(|(_, set)| !set.is_empty())
                .collect(),
            no_new_privileges: threads
                .iter()
                .all(|thread| thread.number("NoNewPrivs") == Some(1)),
            seccomp_filters: threads
                .iter()
                .map(|thread| thread.number("Seccomp_filters").unwrap_or(0))
                .min()
                .unwrap_or(0),
            landlock: None,
            namespaces: namespaces(pid),
            root: root(pid),
            label: label(&directory),
        })
    }

    /// Adds whether Landlock keeps the process from files, which `/proc` doesn't show.
    pub(super) fn with_landlock(self, landlock: bool) -> Self {
        let landlock = Some(landlock);
        Self { landlock, ..self }
    }
}

/// A thread's `status` (proc_pid_status(5)).
pub(crate) struct Status(String);

impl Status {
    /// Reads one; returns `None` if the process has ended, or can't be seen.
    pub(crate) fn read(path: PathBuf) -> Option<Self> {
        fs::read_to_string(path).ok().map(Self)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            Some(value.trim())
        })
    }

    /// Returns a field's only number, or for users and groups the effective one.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        let mut numbers = self.field(name)?.split_whitespace();
        let first = numbers.next()?;
        numbers.next().unwrap_or(first).parse().ok()
    }

    /// Returns a set of capabilities, a bit each.
    pub(crate) fn set(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.field(name)?, 16).ok()
    }
}

/// Returns the capabilities of a set that have names.
pub(crate) fn names(set: u64) -> Vec<&'static str> {
    let numbered = CAPABILITIES.into_iter().enumerate();
    let has = numbered.filter(|(number, _)| set >> number & 1 == 1);
    has.map(|(_, name)| name).collect()
}

fn namespaces(pid: i32) -> Option<Vec<&'static str>> {
    let mut own = Vec::new();
    for (name, file) in NAMESPACES {
        // The kernel has none of these.
        let Ok(ours) = fs::read_link(format!("/proc/self/ns/{file}")) else {
            continue;
        };
        if fs::read_link(format!("/proc/{pid}/ns/{file}")).ok()? != ours {
            own.push(name);
        }
    }
    Some(own)
}

fn root(pid: i32) -> Option<Root> {
    let mountinfo = fs::read(format!("/proc/{pid}/mountinfo")).ok()?;
    let mut found = None;
    let mut mounts = 0;
    for line in mount_lines(&mountinfo) {
        mounts += 1;
        // What is mounted last is on top.
        if line.point.as_os_str() == "/" {
            found = Some(line);
        }
    }
    let root = found?;
    Some(Root {
        file_system: root.file_system.to_string_lossy().into_owned(),
        read_only: root.has("ro"),
        mounts,
    })
}

/// Returns the label that a security module has given the process with this directory in `/proc`.
pub(crate) fn label(directory: &Path) -> Option<String> {
    let label = fs::read_to_string(directory.join("attr/current")).ok()?;
    let label = label.trim_end_matches(['\0', '\n']);
    (!label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_apart_by_their_whole_names() {
        let status =
            "Uid:\t1\t2\t3\t4\nSeccomp:\t2\nSeccomp_filters:\t3\nCapBnd:\t0000000000000401\n";
        let status = Status(status.into());
        assert_eq!(status.number("Uid"), Some(2));
        assert_eq!(status.number("Seccomp"), Some(2));
        assert_eq!(status.number("Seccomp_filters"), Some(3));
        assert_eq!(status.number("Cap"), None);
        let set = status.set("CapBnd").unwrap();
        assert_eq!(names(set), ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]);
    }

    #[test]
    fn a_process_that_has_ended_has_none() {
        assert!(Confinement::of("init", i32::MAX).is_none());
        let own = Confinement::of("init", std::process::id() as i32).unwrap();
        assert_eq!(own.namespaces, Some(Vec::new()));
        assert!(own.root.is_some());
    }
}
