//! The processes of the host that a container's VM is made of.

use std::fs;

use nix::unistd::Pid;

use crate::leftovers;

/// What a process of nacre's has to do with a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It stands for the container, or for a process that was started in it later.
    StandIn,
    /// The sandbox process.
    Sandbox,
    /// What emulates the machine.
    Qemu,
    /// It is outside: a command, or a child of one.
    Outside,
}

/// The processes of the test with this id, once its container is there.
pub fn processes(id: &str) -> Vec<(Pid, Role)> {
    let found = leftovers::processes(id).into_iter();
    found.map(|(pid, _)| (pid, role(pid))).collect()
}

/// Those of a role.
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
    } else if pids.is_some_and(|pids| pids.split_whitespace().count() > 1) {
        Role::StandIn
    } else if namespace(&pid.to_string()) == namespace("self") {
        Role::Outside
    } else {
        Role::Sandbox
    }
}
