//! What a VM's processes use.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use nacre_tests::Case;
use nacre_tests::vm::{Role, processes};
use nix::unistd::Pid;

/// What a VM's processes, the sandbox process and all its descendants, use together.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// Bytes of resident memory of their own, and of files: the guest's memory is neither.
    pub(super) memory: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
    /// The CPU time, in hundredths of a second.
    pub(super) ticks: u64,
}

impl Used {
    pub(super) fn by(case: &Case) -> Used {
        let mut used = Used::default();
        for pid in of_vm(case) {
            let path = PathBuf::from(format!("/proc/{pid}"));
            // It may have ended.
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                let number =
                    line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
                number
                    .and_then(|number| number.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            used.memory += (field("RssAnon") + field("RssFile")) << 10;
            used.threads += field("Threads");
            used.descriptors += fs::read_dir(path.join("fd")).map_or(0, Iterator::count) as u64;
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            let times = stat
                .rsplit_once(") ")
                .map_or("", |(_, rest)| rest)
                .split(' ')
                .skip(11);
            used.ticks += times
                .take(2)
                .filter_map(|time| time.parse::<u64>().ok())
                .sum::<u64>();
        }
        used
    }
}

/// Returns the VM's processes: all that aren't commands, and their descendants.
fn of_vm(case: &Case) -> Vec<Pid> {
    let known = processes(case.id()).into_iter();
    let inside = known.filter(|(_, role)| *role != Role::Outside);
    let mut found: Vec<i32> = inside.map(|(pid, _)| pid.as_raw()).collect();
    let mut children = HashMap::<i32, Vec<i32>>::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        for child in children.get(&pid).into_iter().flatten() {
            if !found.contains(child) {
                found.push(*child);
            }
        }
        next += 1;
    }
    found.into_iter().map(Pid::from_raw).collect()
}
