//! Finds the cgroups that this process is in.

use std::path::{Component, Path, PathBuf};

use super::error::CgroupError;
use super::setting;

/// The cgroups that this process is in.
#[derive(Debug)]
pub(super) struct Own(String);

impl Own {
    pub(super) fn read() -> Result<Self, CgroupError> {
        let file = "/proc/self/cgroup";
        setting::read(Path::new(file))
            .map(Own)
            .map_err(CgroupError::directory("read", Path::new(file)))
    }

    /// Returns the one in the v1 hierarchy of a controller (or `name=…`), from that hierarchy's
    /// root.
    pub(super) fn v1(&self, controller: &str) -> PathBuf {
        self.find(|controllers| controllers.split(',').any(|c| c == controller))
    }

    /// Returns the one in cgroup2, from its root.
    pub(super) fn v2(&self) -> PathBuf {
        self.find(str::is_empty)
    }

    /// Returns the parent of the one in cgroup2. A cgroup that has processes, as the own one does,
    /// can't have children with controllers.
    pub(super) fn v2_parent(&self) -> PathBuf {
        let mut path = self.v2();
        path.pop();
        path
    }

    /// Finds one, as a relative path. `/..` leads outside of this cgroup namespace, and is dropped:
    /// the path starts at the namespace's root then.
    fn find(&self, wanted: impl Fn(&str) -> bool) -> PathBuf {
        let path = self.0.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            wanted(controllers).then_some(path)
        });
        Path::new(path.unwrap_or_default())
            .components()
            .filter(|component| matches!(component, Component::Normal(_)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cgroups_are_found_by_controller() {
        let own =
            Own("5:cpu,cpuacct:/a b/c:d\n4:memory:/../../x\n1:name=systemd:/\n0::/s/t\n".into());
        assert_eq!(own.v1("cpuacct"), Path::new("a b/c:d"));
        assert_eq!(own.v1("memory"), Path::new("x"));
        assert_eq!(own.v1("name=systemd"), Path::new(""));
        assert_eq!(own.v1("pids"), Path::new(""));
        assert_eq!(own.v2_parent(), Path::new("s"));
        assert_eq!(Own("0::/\n".into()).v2_parent(), Path::new(""));
    }
}
