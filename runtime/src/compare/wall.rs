//! What stands between the workload and the host in each mode, as a probe has found it from inside.

use std::collections::BTreeMap;

use nacre_agent::container::seccomp::call_name;
use serde_json::Value;

use crate::{
    config::{CAPABILITIES, Isolation},
    isolation::confinement::names,
    probe::{Probe, Reached, namespaces, release},
    text::one_line,
};

use super::{
    enforced::enforced,
    host_kernel,
    report::{Wall, WallLine},
};

/// How many names a line shows.
const SHOWN: usize = 40;

/// Calls that have been ways into the kernel often; what a filter is for.
const SENSITIVE: [&str; 12] = [
    "add_key",
    "bpf",
    "clone3",
    "fsopen",
    "io_uring_setup",
    "keyctl",
    "mount",
    "perf_event_open",
    "ptrace",
    "setns",
    "unshare",
    "userfaultfd",
];

/// What was found in one mode.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) isolation: Isolation,
    pub(super) probe: Probe,
    /// What `nacre state` says of what confines the container's processes on the host.
    pub(super) confinement: Value,
}

/// Builds the lines for both modes.
pub(super) fn wall(process: &Look, vm: &Look, config: &Value) -> Wall {
    let both = |of: fn(&Look) -> String| (of(process), of(vm));
    let line = |key, name, (process, vm), worth| WallLine {
        key,
        name,
        process,
        vm,
        worth,
    };
    let lines = vec![
        line("kernel", "its kernel", both(kernel_line), KERNEL),
        line(
            "system_calls",
            "system calls that answer",
            both(|it| if_tried(it, calls_line)),
            CALLS,
        ),
        line(
            "sensitive_calls",
            "of these often misused",
            both(|it| if_tried(it, sensitive_line)),
            SENSITIVE_CALLS,
        ),
        line(
            "proc",
            "/proc",
            both(|it| reached_line(&it.probe.proc)),
            FILES,
        ),
        line("sys", "/sys", both(|it| reached_line(&it.probe.sys)), FILES),
        line("devices", "devices", both(devices_line), DEVICES),
        line(
            "capabilities",
            "capabilities",
            both(|it| if_seen(it, capabilities_line)),
            RIGHTS,
        ),
        line(
            "restraints",
            "restraints",
            both(|it| if_seen(it, restraints_line)),
            RESTRAINTS,
        ),
        line(
            "namespaces",
            "namespaces of the host",
            both(|it| if_seen(it, shared_line)),
            NAMESPACES,
        ),
        line(
            "processes",
            "other processes seen",
            both(|it| if_seen(it, |it| it.probe.process.others.to_string())),
            PROCESSES,
        ),
        line(
            "kernel_secrets",
            "kernel's secrets",
            both(secrets_line),
            SECRETS,
        ),
        line(
            "confinement",
            "nacre's processes on the host",
            both(confinement_line),
            CONFINEMENT,
        ),
    ];
    Wall {
        lines,
        enforced: enforced(config),
        host: host_kernel::look(),
    }
}

const KERNEL: &str = "a flaw in this kernel that the workload can reach is a way out: of the container \
     if it is the host's, only into its own VM otherwise";
const CALLS: &str = "each is an entrance to that kernel";
const SENSITIVE_CALLS: &str = "they have led into kernels more often than others; a seccomp profile \
     takes them away";
const FILES: &str = "what can be read tells about that kernel, and what can be written changes it";
const DEVICES: &str = "each is a driver of that kernel, and a way to what it drives";
const RIGHTS: &str = "each lifts some of that kernel's checks";
const RESTRAINTS: &str = "they hold if that kernel does";
const NAMESPACES: &str = "what is shared with the host can be seen and changed there";
const PROCESSES: &str = "whoever is seen can be signalled, or traced with the right to it";
const SECRETS: &str = "they make an attack on that kernel easier";
const CONFINEMENT: &str =
    "whoever has broken out of the workload's kernel has what these processes have";

fn is_own_kernel(look: &Look) -> bool {
    look.isolation == Isolation::Vm
}

/// Returns a line about what `/proc` tells, if it is there.
fn if_seen(look: &Look, line: impl FnOnce(&Look) -> String) -> String {
    if look.probe.process.is_seen {
        line(look)
    } else {
        "not known: the container has no /proc".into()
    }
}

/// Returns a line about system calls, if they could be tried.
fn if_tried(look: &Look, line: impl FnOnce(&Look) -> String) -> String {
    if look.probe.calls.answered.is_empty() {
        "they couldn't be tried".into()
    } else {
        line(look)
    }
}

fn kernel_line(look: &Look) -> String {
    let release = release(&look.probe.process.kernel);
    let whose = if is_own_kernel(look) {
        "its own"
    } else {
        "the host's"
    };
    format!("{whose}, {release}")
}

fn calls_line(look: &Look) -> String {
    let calls = &look.probe.calls;
    let mut line = calls.answered.len().to_string();
    for (list, what) in [(&calls.refused, "refused"), (&calls.killed, "killed for")] {
        if !list.is_empty() {
            line.push_str(&format!(", {} {what}", list.len()));
        }
    }
    line
}

fn sensitive_line(look: &Look) -> String {
    let names = look
        .probe
        .calls
        .answered
        .iter()
        .filter_map(|number| call_name(*number));
    list(names.filter(|name| SENSITIVE.contains(&name.as_str())))
}

fn reached_line(reached: &Reached) -> String {
    if reached.entries == 0 {
        return "it isn't there".into();
    }
    let more = if reached.is_cut { "more than " } else { "" };
    format!(
        "{more}{} can be read, {} written",
        reached.readable, reached.writable
    )
}

fn devices_line(look: &Look) -> String {
    let names = look.probe.devices.iter().map(|it| one_line(it));
    list(names.map(|it| {
        it.split(' ')
            .next()
            .unwrap_or_default()
            .trim_start_matches("/dev/")
            .to_owned()
    }))
}

fn capabilities_line(look: &Look) -> String {
    let own = &look.probe.process;
    let names = names(own.capabilities).into_iter();
    let names = names.map(|name| name.trim_start_matches("CAP_").to_lowercase());
    let names = match own.capabilities.count_ones() as usize {
        all if all == CAPABILITIES.len() => "all".to_owned(),
        _ => list(names),
    };
    format!("{names} (uid {})", own.uid)
}

fn restraints_line(look: &Look) -> String {
    let own = &look.probe.process;
    let restraints = [
        own.no_new_privileges
            .then(|| "no new privileges".to_owned()),
        own.is_filtered.then(|| "seccomp".to_owned()),
        own.label.clone().filter(|label| label != "unconfined"),
    ];
    list(restraints.into_iter().flatten())
}

fn shared_line(look: &Look) -> String {
    if is_own_kernel(look) {
        return "none: they are another kernel's".into();
    }
    let ours: BTreeMap<String, String> = namespaces();
    let theirs = &look.probe.process.namespaces;
    list(
        ours.into_iter()
            .filter(|(name, id)| theirs.get(name) == Some(id))
            .map(|(name, _)| name),
    )
}

fn secrets_line(look: &Look) -> String {
    let own = &look.probe.process;
    let secrets = [
        (own.reads_log, "its log"),
        (own.knows_addresses, "its addresses"),
    ];
    list(
        secrets
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, what)| what.to_owned()),
    )
}

/// Says of each process who it is and what it has.
fn confinement_line(look: &Look) -> String {
    let processes = look.confinement.as_array().into_iter().flatten();
    let described = processes.map(|process| {
        let capabilities = process["capabilities"]["effective"]
            .as_array()
            .map_or(0, Vec::len);
        format!(
            "{}: uid {}, {capabilities} capabilities, {} filters",
            process["process"].as_str().unwrap_or_default(),
            process["uid"],
            process["seccompFilters"],
        )
    });
    described.collect::<Vec<_>>().join("; ")
}

fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    if names.is_empty() {
        return "none".into();
    }
    let names = names.join(" ");
    if more > 0 {
        format!("{names} and {more} more")
    } else {
        names
    }
}
