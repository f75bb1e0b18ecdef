//! Which cgroup file systems this host has: cgroup2 alone, the hierarchies of version 1, or
//! both side by side, which systemd calls hybrid.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::CgroupError;
use super::setting;
use super::v1::Hierarchy;

/// Where they are all mounted, by custom.
const TOP: &str = "/sys/fs/cgroup";

/// The cgroup file systems of a host.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// None where cgroup2 is alone.
    pub(super) v1: Vec<Hierarchy>,
    /// Where cgroup2 is mounted.
    pub(super) v2: Option<PathBuf>,
}

impl Layout {
    /// Looks. Where cgroup2 is alone, as it mostly is, that is one system call.
    ///
    /// # Errors
    ///
    /// [`CgroupError::NotMounted`], or what reading `/proc/self/mountinfo` gives.
    pub(super) fn find() -> Result<Self, CgroupError> {
        if statfs(TOP).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(Layout {
                v1: Vec::new(),
                v2: Some(PathBuf::from(TOP)),
            });
        }
        let file = "/proc/self/mountinfo";
        // Line by line, so that it takes as many calls as the buffer is too small.
        let mut mounts = String::with_capacity(32 << 10);
        File::open(file)
            .and_then(|mut file| file.read_to_string(&mut mounts))
            .map_err(CgroupError::directory("read", Path::new(file)))?;
        let layout = Self::parse(&mounts);
        match layout.v1.is_empty() && layout.v2.is_none() {
            true => Err(CgroupError::NotMounted),
            false => Ok(layout),
        }
    }

    /// Understands mountinfo
    /// ([proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)).
    /// Of a hierarchy that is mounted more than once, in the roots of containers say, the first
    /// counts.
    fn parse(mountinfo: &str) -> Self {
        let mut layout = Layout::default();
        for line in mountinfo.lines() {
            let Some((mount, file_system)) = line.split_once(" - ") else {
                continue;
            };
            let mut file_system = file_system.split(' ');
            let kind = file_system.next();
            if !matches!(kind, Some("cgroup" | "cgroup2")) {
                continue;
            }
            let mut mount = mount.split(' ').skip(3);
            let (Some(root), Some(point)) = (mount.next(), mount.next()) else {
                continue;
            };
            let point = PathBuf::from(unescape(point));
            if kind == Some("cgroup2") {
                layout.v2.get_or_insert(point);
            } else if let Some(hierarchy) = Hierarchy::new(
                point,
                unescape(root),
                file_system.nth(1).unwrap_or_default(),
            ) && !layout.v1.iter().any(|known| known.is_same(&hierarchy))
            {
                layout.v1.push(hierarchy);
            }
        }
        layout
    }

    /// The hierarchy of version 1 that has a controller.
    pub(super) fn v1_with(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|hierarchy| hierarchy.has(controller))
    }
}

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

    /// The one in the v1 hierarchy of a controller (or `name=…`), from that hierarchy's root.
    pub(super) fn v1(&self, controller: &str) -> PathBuf {
        self.find(|controllers| controllers.split(',').any(|c| c == controller))
    }

    /// The one in cgroup2, from its root.
    pub(super) fn v2(&self) -> PathBuf {
        self.find(str::is_empty)
    }

    /// The one that holds the one in cgroup2. One that has processes, as the own one has, can't
    /// have children with controllers.
    pub(super) fn v2_parent(&self) -> PathBuf {
        let mut path = self.v2();
        path.pop();
        path
    }

    /// As a relative path. `/..` stands for what is outside of this cgroup namespace: from there
    /// on, its root is as good.
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

/// Undoes the kernel's escapes of blanks and backslashes.
fn unescape(path: &str) -> String {
    let mut parts = path.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).map(|octal| u8::from_str_radix(octal, 8)) {
            Some(Ok(byte)) => {
                plain.push(char::from(byte));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
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
        let layout = Layout::parse(HYBRID);
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
            assert_eq!(layout.v1_with(controller).is_some(), there, "{controller}");
        }
    }

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
