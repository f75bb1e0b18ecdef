//! What an attack on the host's own kernel would meet, as the kernel itself shows it.

use std::fs;

use nacre_agent::container::what_keeps_one_from_making_one;

use super::report::Fact;

/// Looks at this host.
pub(super) fn look() -> Vec<Fact> {
    let mut facts = vec![
        Fact::new("kernel", crate::probe::kernel()),
        Fact::new(
            "security modules",
            read("/sys/kernel/security/lsm")
                .unwrap_or("not shown: securityfs isn't mounted".into()),
        ),
        Fact::new("lockdown", lockdown()),
        Fact::new("unprivileged user namespaces", user_namespaces()),
    ];
    let settings = [
        ("kernel.kptr_restrict", "0 shows its addresses"),
        ("kernel.dmesg_restrict", "0 shows its log"),
        (
            "kernel.unprivileged_bpf_disabled",
            "0 lets everybody load BPF",
        ),
        (
            "kernel.perf_event_paranoid",
            "below 2 lets everybody watch the kernel",
        ),
        ("kernel.io_uring_disabled", "0 lets everybody use io_uring"),
    ];
    for (name, meaning) in settings {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        if let Some(value) = read(&path) {
            facts.push(Fact::new(name, format!("{value} ({meaning})")));
        }
    }
    facts.push(Fact::new("processor flaws that are open", open_flaws()));
    facts
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|it| it.trim().to_owned())
}

fn lockdown() -> String {
    let modes = read("/sys/kernel/security/lockdown").unwrap_or_default();
    let chosen = modes.split(['[', ']']).nth(1);
    chosen.unwrap_or("not shown").to_owned()
}

fn user_namespaces() -> String {
    let are_restricted = !what_keeps_one_from_making_one().is_empty();
    if are_restricted {
        "restricted"
    } else {
        "allowed"
    }
    .to_owned()
}

/// Returns the flaws of the processor that the kernel calls vulnerable
/// (Documentation/admin-guide/hw-vuln).
fn open_flaws() -> String {
    let entries = fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    let entries = entries.into_iter().flatten().flatten();
    let open = entries.filter_map(|entry| {
        let state = fs::read_to_string(entry.path()).ok()?;
        let name = entry.file_name().into_string().ok()?;
        state.starts_with("Vulnerable").then_some(name)
    });
    let mut open: Vec<String> = open.collect();
    open.sort();
    if open.is_empty() {
        "none".into()
    } else {
        open.join(" ")
    }
}
