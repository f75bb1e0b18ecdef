//! The processes on the host that make up a container's VM.

use std::fs;

use nix::unistd::Pid;

use crate::leftovers;

/// The part that a nacre process has in a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The stand-in of the container, or of a process that was started in it later.
    StandIn,
    /// The sandbox process.
    Sandbox,
    /// The process that has the machine and its devices.
    Monitor,
    /// The process that serves files to the guest.
    FileServer,
    /// The process that emulates the machine.
    Qemu,
    /// A process outside the VM: a command, or a child of one.
    Outside,
}

/// Returns the processes of the test with this id, once its container is there.
pub fn processes(id: &str) -> Vec<(Pid, Role)> {
    let found = leftovers::processes(id).into_iter();
    found.map(|(pid, _)| (pid, role(pid))).collect()
}

/// Returns the parent of a process.
#[track_caller]
pub fn parent(pid: Pid) -> Pid {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Pid::from_raw(parent.unwrap().trim().parse().unwrap())
}

/// Returns the processes that have this role.
pub fn with_role(id: &str, wanted: Role) -> Vec<Pid> {
    let found = processes(id).into_iter();
    let found = found.filter(|(_, role)| *role == wanted);
    found.map(|(pid, _)| pid).collect()
}

fn role(pid: Pid) -> Role {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    let status = read("status");
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    if read("comm").starts_with("qemu") {
        Role::Qemu
    } else if read("comm") == "nacre-monitor\n" {
        Role::Monitor
    } else if read("comm") == "nacre-files\n" {
        Role::FileServer
    } else if pids.is_some_and(|pids| pids.split_whitespace().count() > 1) {
        Role::StandIn
    } else if namespace(&pid.to_string()) == namespace("self") {
        Role::Outside
    } else {
        Role::Sandbox
    }
}

/// Fails if a thread of a QEMU has a capability or can gain one, or lacks a filter, nacre's or
/// QEMU's own, or if its session keyring isn't its user's own.
#[track_caller]
pub fn is_confined(pid: Pid) {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map_or("", |line| line.trim_start_matches(':').trim())
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        for (name, value) in [
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("Seccomp_filters", "2"),
        ] {
            assert_eq!(field(name), value, "{name}");
        }
        let own = format!("{}:", field("Uid").split('\t').next().unwrap());
        let keys = fs::read_to_string("/proc/key-users").unwrap();
        let has_keys = |line: &str| line.trim_start().starts_with(&own);
        assert!(keys.lines().any(has_keys), "{own} {keys}");
    }
}
