//! What confines the processes on the host that a VM consists of, as `nacre state` reports it.

use std::fs;

use crate::isolation::{confinement::Confinement, vm::found::VmContainer};

/// The names that processes give themselves, and those of their parts.
const PARTS: [(&str, &str); 3] = [
    ("nacre-monitor", "monitor"),
    ("nacre-files", "file-server"),
    ("qemu", "qemu"),
];

/// Returns it for each process of a VM that hasn't ended: those that `/proc` lists as the sandbox
/// process's children, and their children.
pub(crate) fn confinement(found: &VmContainer<'_>) -> Vec<Confinement> {
    let sandbox = found.vm.sandbox.pid;
    let mut processes = vec![("sandbox", sandbox)];
    for child in children(sandbox) {
        processes.extend(part(child));
        processes.extend(children(child).into_iter().filter_map(part));
    }
    processes.extend(found.vm.stand_in.map(|stand_in| ("stand-in", stand_in.pid)));
    let landlocked = |process| match process {
        "monitor" => found.vm.landlocked.monitor,
        "file-server" => found.vm.landlocked.file_server,
        _ => false,
    };
    let confined = processes.into_iter().filter_map(|(process, pid)| {
        Some(Confinement::of(process, pid)?.with_landlock(landlocked(process)))
    });
    confined.collect()
}

/// Returns which part of a VM a process is, if it is one.
fn part(pid: i32) -> Option<(&'static str, i32)> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let mut parts = PARTS.into_iter();
    let (_, part) = parts.find(|(begin, _)| name.starts_with(begin))?;
    Some((part, pid))
}

/// Returns the children of all of a process's threads. A kernel without `CONFIG_PROC_CHILDREN` lists
/// none.
fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    let lists = threads
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let mut children = Vec::new();
    for list in lists {
        children.extend(
            list.split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    children
}
