//! Checks what this host's kernel has of that which confines containers and nacre's own processes.

use std::{fs, path::Path};

use nacre_vmm::Landlock;

use super::finding::Finding;

/// The kinds of namespaces that a VM's processes get, by their names in `/proc/PID/ns`.
const OF_A_VM: [&str; 5] = ["mnt", "pid", "net", "ipc", "uts"];

/// Where the kernel says which security modules are in force.
const SECURITY_MODULES: &str = "/sys/kernel/security/lsm";

/// Who misses something, if it isn't there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Missed {
    /// Every VM.
    ByAll,
    /// Containers that ask for it.
    BySome,
}

/// Returns those of the namespaces of a VM's processes that this host doesn't have, or lets nobody
/// make.
pub(super) fn missing_namespaces() -> Vec<&'static str> {
    let is_missing = |kind: &&str| {
        let limit = format!("/proc/sys/user/max_{kind}_namespaces");
        !Path::new("/proc/self/ns").join(kind).exists() || reads(&limit, "0")
    };
    OF_A_VM.into_iter().filter(is_missing).collect()
}

pub(super) fn namespaces(missing: &[&str]) -> Finding {
    if missing.is_empty() {
        return Finding::ok("namespaces", "a VM's processes get namespaces of their own");
    }
    Finding::error(
        "namespaces",
        format!(
            "there are no new namespaces here of these kinds: {}",
            missing.join(", ")
        ),
        "use a kernel that has them, and allow them in /proc/sys/user",
    )
}

/// Returns whether the kernel filters system calls.
pub(super) fn has_filters() -> bool {
    Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
}

pub(super) fn seccomp(has_filters: bool, missed: Missed) -> Finding {
    let none = "the kernel has no seccomp filters";
    match (has_filters, missed) {
        (true, _) => Finding::ok("seccomp", "the kernel filters system calls"),
        (false, Missed::ByAll) => Finding::error(
            "seccomp",
            none,
            "use a kernel with CONFIG_SECCOMP_FILTER: no VM runs without",
        ),
        (false, Missed::BySome) => Finding::warning(
            "seccomp",
            none,
            "use a kernel with CONFIG_SECCOMP_FILTER: containers with linux.seccomp are refused",
        ),
    }
}

/// Returns whether the kernel logs which call a filter ended a process for.
pub(super) fn logs_violations() -> bool {
    fs::read_to_string("/proc/sys/kernel/seccomp/actions_logged").is_ok_and(|logged| {
        logged
            .split_whitespace()
            .any(|action| action == "kill_process")
    })
}

pub(super) fn violations(are_logged: bool) -> Finding {
    if are_logged {
        return Finding::ok(
            "seccomp-log",
            "the kernel logs for which system call a filter ends a process",
        );
    }
    Finding::warning(
        "seccomp-log",
        "the kernel doesn't log for which system call a filter ends a process",
        "add kill_process to /proc/sys/kernel/seccomp/actions_logged: a VM's failure can't name it",
    )
}

/// Says what the kernel's Landlock keeps a VM's processes from.
pub(super) fn landlock(found: Option<Landlock>) -> Finding {
    const NAME: &str = "landlock";
    let Some(landlock) = found else {
        return Finding::warning(
            NAME,
            "the kernel has no Landlock, which would keep a VM's processes from the host's files once more",
            "use a kernel with CONFIG_SECURITY_LANDLOCK, and with landlock among those that its \
             parameter lsm= names",
        );
    };
    let version = landlock.version();
    if landlock.keeps_to_directories() {
        return Finding::ok(
            NAME,
            format!(
                "Landlock {version} keeps a VM's monitor from files, and its file server to the share"
            ),
        );
    }
    Finding::warning(
        NAME,
        format!(
            "Landlock {version} keeps a VM's monitor from files, but can't keep its file server to the share"
        ),
        "use Linux 6.19 or later, or a recent release of an earlier one that is kept up",
    )
}

/// Checks whether root may create user namespaces; the error says what forbids it.
pub(super) fn user_namespaces() -> Result<(), &'static str> {
    if !Path::new("/proc/self/ns/user").exists() {
        return Err("this kernel has none");
    }
    let limit = "/proc/sys/user/max_user_namespaces";
    if reads(limit, "0") {
        return Err(limit);
    }
    Ok(())
}

/// Checks whether an ordinary user may, too.
pub(super) fn user_namespaces_for_users() -> Result<(), &'static str> {
    user_namespaces()?;
    for (sysctl, value) in [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
        ),
    ] {
        if reads(sysctl, value) {
            return Err(sysctl);
        }
    }
    Ok(())
}

pub(super) fn users(namespaces: Result<(), &'static str>) -> Finding {
    match namespaces {
        Ok(()) => Finding::ok("user-namespaces", "containers can have users of their own"),
        Err(why) => Finding::warning(
            "user-namespaces",
            format!("user namespaces can't be made: {why}"),
            "allow them: containers with linux.uidMappings are refused",
        ),
    }
}

/// Returns the security modules with which `config.json` can label processes that are in force here.
pub(super) fn security_modules() -> Vec<&'static str> {
    let active = fs::read_to_string(SECURITY_MODULES).unwrap_or_default();
    let mut known = Vec::new();
    for (module, sign) in [
        ("apparmor", "/sys/module/apparmor/parameters/enabled"),
        ("selinux", "/sys/fs/selinux/enforce"),
    ] {
        let is_listed = active.trim().split(',').any(|name| name == module);
        // Only who sees securityfs sees the list.
        if is_listed || reads(sign, "Y") || reads(sign, "1") {
            known.push(module);
        }
    }
    known
}

pub(super) fn labels(modules: &[&str]) -> Finding {
    let message = if modules.is_empty() {
        "the kernel has neither AppArmor nor SELinux: containers with a profile or label are refused"
            .to_owned()
    } else {
        format!(
            "security modules that label containers: {}",
            modules.join(", ")
        )
    };
    Finding::ok("security-modules", message)
}

/// Returns whether a file of the kernel's has this value.
fn reads(path: &str, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    #[test]
    fn a_vm_needs_filters_and_a_container_may() {
        assert_eq!(seccomp(true, Missed::ByAll).level, Level::Ok);
        assert_eq!(seccomp(false, Missed::ByAll).level, Level::Error);
        assert_eq!(seccomp(false, Missed::BySome).level, Level::Warning);
    }

    #[test]
    fn a_namespace_that_is_missing_is_named() {
        assert_eq!(namespaces(&[]).level, Level::Ok);
        let finding = namespaces(&["net", "uts"]);
        assert_eq!(finding.level, Level::Error);
        assert!(
            finding.message.ends_with(": net, uts"),
            "{}",
            finding.message
        );
    }

    #[test]
    fn what_some_containers_miss_is_a_warning() {
        assert_eq!(users(Err("no")).level, Level::Warning);
        assert_eq!(violations(false).level, Level::Warning);
        assert_eq!(landlock(None).level, Level::Warning);
        assert_eq!(labels(&[]).level, Level::Ok);
        assert!(labels(&["selinux"]).message.contains("selinux"));
    }
}
