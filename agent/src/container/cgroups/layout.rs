//! Finds which cgroup file systems this host has: cgroup2 alone, the hierarchies of version 1, or
//! both side by side, which systemd calls hybrid.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::CgroupError;
use super::v1::Hierarchy;
use crate::container::kernel::mountinfo::mount_lines;

/// Where they are all mounted, by convention.
const TOP: &str = "/sys/fs/cgroup";

/// The cgroup file systems of a host.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Empty where cgroup2 is alone.
    pub(super) v1: Vec<Hierarchy>,
    /// Where cgroup2 is mounted.
    pub(super) v2: Option<PathBuf>,
}

impl Layout {
    /// Finds the file systems. Where cgroup2 is alone, as is usual, that takes one system call.
    ///
    /// # Errors
    ///
    /// [`CgroupError::NotMounted`], or the errors of reading `/proc/self/mountinfo`.
    pub(super) fn find() -> Result<Self, CgroupError> {
        if statfs(TOP).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(Layout {
                v1: Vec::new(),
                v2: Some(PathBuf::from(TOP)),
            });
        }
        let file = "/proc/self/mountinfo";
        // The kernel gives as many lines as fit, so a buffer that is too small takes more calls.
        let mut mounts = Vec::with_capacity(32 << 10);
        File::open(file)
            .and_then(|mut file| file.read_to_end(&mut mounts))
            .map_err(CgroupError::directory("read", Path::new(file)))?;
        let layout = Self::parse(&mounts);
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(CgroupError::NotMounted);
        }
        Ok(layout)
    }

    /// Finds them in a mountinfo. If a hierarchy is mounted more than once, in the roots of containers say, the first mount
    /// counts.
    fn parse(mountinfo: &[u8]) -> Self {
        let mut layout = Layout::default();
        for line in mount_lines(mountinfo) {
            if line.file_system == "cgroup2" {
                layout.v2.get_or_insert(line.point);
            } else if line.file_system == "cgroup"
                && let Some(parameters) = line.parameters.to_str()
                && let Some(hierarchy) = Hierarchy::new(line.point, &line.root, parameters)
                && !layout.v1.iter().any(|known| known.is_same(&hierarchy))
            {
                layout.v1.push(hierarchy);
            }
        }
        layout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 1 254:0 / / rw - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/net\\040cls rw,relatime - cgroup cgroup rw,net_cls,net_prio
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /sys/fs/cgroup/other rw,relatime - cgroup none rw,name=other
70 60 0:32 /a /var/lib/x/sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory
71 60 0:38 /a /var/lib/x/sys/fs/cgroup/unified ro,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_hosts_are_understood() {
        let layout = Layout::parse(HYBRID.as_bytes());
        assert_eq!(
            layout.v2.as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified"))
        );
        let points: Vec<_> = layout
            .v1
            .iter()
            .map(|h| h.mount.to_str().unwrap())
            .collect();
        assert_eq!(
            points,
            [
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/net cls",
                "/sys/fs/cgroup/systemd",
            ]
        );
        for (controller, there) in [
            ("cpuacct", true),
            ("net_prio", true),
            ("name=systemd", true),
            ("name=other", false),
            ("xattr", false),
            ("pids", false),
        ] {
            assert_eq!(
                layout.v1.iter().any(|h| h.has(controller)),
                there,
                "{controller}"
            );
        }
    }
}
