//! Facts about the host that matter to both kinds of isolation.

use std::{fmt, fs, path::Path};

/// How the host's control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CgroupVersion {
    None,
    V1,
    Hybrid,
    V2,
}

impl CgroupVersion {
    /// Finds the version mounted at `mount`, usually `/sys/fs/cgroup`.
    pub(super) fn find(mount: &Path) -> Self {
        if mount.join("cgroup.controllers").exists() {
            Self::V2
        } else if mount.join("unified/cgroup.controllers").exists() {
            Self::Hybrid
        } else if fs::read_dir(mount).is_ok_and(|mut entries| entries.next().is_some()) {
            Self::V1
        } else {
            Self::None
        }
    }
}

impl fmt::Display for CgroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "not mounted",
            Self::V1 => "version 1",
            Self::Hybrid => "version 1, with version 2 beside it",
            Self::V2 => "version 2",
        })
    }
}

/// Returns whether this process has CAP_SYS_ADMIN (bit 21) in its effective set.
pub(super) fn has_cap_sys_admin() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .is_some_and(|set| set >> CAP_SYS_ADMIN & 1 == 1)
    })
}

/// Checks whether an ordinary user may create user namespaces; the error says what forbids it.
pub(super) fn user_namespaces() -> Result<(), &'static str> {
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|t| t.trim() == value);
    if !Path::new("/proc/self/ns/user").exists() {
        return Err("this kernel has none");
    }
    for (sysctl, value) in [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
        ),
    ] {
        if is(sysctl, value) {
            return Err(sysctl);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_hierarchies_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let mount = directory.path();
        let version = || CgroupVersion::find(mount);
        assert_eq!(version(), CgroupVersion::None);
        fs::create_dir_all(mount.join("unified")).unwrap();
        assert_eq!(version(), CgroupVersion::V1);
        fs::write(mount.join("unified/cgroup.controllers"), "").unwrap();
        assert_eq!(version(), CgroupVersion::Hybrid);
        fs::write(mount.join("cgroup.controllers"), "").unwrap();
        assert_eq!(version(), CgroupVersion::V2);
    }
}
