//! Checks what `--isolation=process` needs.

use std::{fs, path::Path};

use nix::{sys::utsname::uname, unistd::geteuid};

use super::{
    finding::Finding,
    host::{self, CgroupVersion},
};

/// The oldest kernel with everything that the engine needs: `mount_setattr` came with 5.12,
/// `cgroup.kill` with 5.14.
const OLDEST_KERNEL: (u32, u32) = (5, 14);

/// The controllers that limits are commonly set for.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

pub(super) fn examine() -> Vec<Finding> {
    let release = uname().map_or_else(
        |_| String::new(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let root = Path::new("/sys/fs/cgroup");
    vec![
        kernel(&release),
        privileges(
            geteuid().is_root(),
            host::has_cap_sys_admin(),
            &host::user_namespaces(),
        ),
        cgroups(CgroupVersion::find(root), &missing_controllers(root)),
        seccomp(Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()),
    ]
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let version = (number().unwrap_or(0), number().unwrap_or(0));
    let message = format!("the kernel is {release}");
    if version < OLDEST_KERNEL {
        return Finding::error("kernel", message, "use Linux 5.14 or later");
    }
    Finding::ok("kernel", message)
}

fn privileges(
    is_root: bool,
    has_cap_sys_admin: bool,
    user_namespaces: &Result<(), &'static str>,
) -> Finding {
    match (is_root, has_cap_sys_admin, user_namespaces) {
        (true, true, _) => Finding::ok("privileges", "namespaces and mounts can be made"),
        (true, false, _) => Finding::error(
            "privileges",
            "this is root without CAP_SYS_ADMIN, so namespaces and mounts can't be made",
            "give the container that nacre runs in CAP_SYS_ADMIN, or run nacre as an ordinary user",
        ),
        (false, _, Ok(())) => Finding::ok(
            "privileges",
            "this is an ordinary user: containers run rootless, in user namespaces",
        ),
        (false, _, Err(why)) => Finding::error(
            "privileges",
            format!("this is an ordinary user, who can't make user namespaces: {why}"),
            "run nacre as root, or allow user namespaces",
        ),
    }
}

/// Returns those of [`CONTROLLERS`] that no hierarchy has.
fn missing_controllers(root: &Path) -> Vec<&'static str> {
    let listed = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    CONTROLLERS
        .into_iter()
        .filter(|name| !listed.split_whitespace().any(|l| l == *name) && !root.join(name).is_dir())
        .collect()
}

fn cgroups(version: CgroupVersion, missing: &[&str]) -> Finding {
    let message = format!("the host's control groups are {version}");
    if version == CgroupVersion::None {
        return Finding::warning(
            "cgroups",
            message,
            "mount cgroup2 at /sys/fs/cgroup: without, a container with limits is refused",
        );
    }
    if !missing.is_empty() {
        return Finding::warning(
            "cgroups",
            format!("{message}, without the controllers {}", missing.join(", ")),
            "enable them in the kernel or in the cgroup that nacre runs in: limits that need them \
             are refused",
        );
    }
    Finding::ok("cgroups", message)
}

fn seccomp(has_filters: bool) -> Finding {
    if has_filters {
        Finding::ok("seccomp", "the kernel filters system calls")
    } else {
        Finding::warning(
            "seccomp",
            "the kernel has no seccomp filters",
            "use a kernel with CONFIG_SECCOMP_FILTER: containers with linux.seccomp are refused",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    #[test]
    fn an_old_kernel_is_an_error() {
        for (release, level) in [
            ("6.1.0-13-amd64", Level::Ok),
            ("5.14", Level::Ok),
            ("5.10.0", Level::Error),
            ("4.19-rc1", Level::Error),
            ("", Level::Error),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn an_ordinary_user_needs_user_namespaces() {
        for (root, admin, namespaces, level) in [
            (true, true, Err("no"), Level::Ok),
            (true, false, Ok(()), Level::Error),
            (false, false, Ok(()), Level::Ok),
            (false, false, Err("no"), Level::Error),
        ] {
            assert_eq!(privileges(root, admin, &namespaces).level, level);
        }
    }

    #[test]
    fn controllers_are_found_in_either_layout() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!(missing_controllers(root), CONTROLLERS);
        fs::create_dir(root.join("memory")).unwrap();
        fs::write(root.join("cgroup.controllers"), "cpuset cpu io").unwrap();
        assert_eq!(missing_controllers(root), ["pids"]);
        let finding = cgroups(CgroupVersion::V2, &["pids"]);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.message.contains("pids"));
    }
}
