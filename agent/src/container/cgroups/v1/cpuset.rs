//! The cpuset controller, in which a new cgroup has no CPUs and no memory nodes, so that no process
//! could be in it.

use std::path::Path;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::{self, write};

/// Gives a cgroup below `mount` its parent's CPUs and nodes, unless it has some.
pub(super) fn inherit(mount: &Path, directory: &Path) -> Result<(), CgroupError> {
    let Some(parent) = directory.parent().filter(|_| directory != mount) else {
        return Ok(());
    };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = directory.join(name);
        let read = |file: &Path| setting::read(file).map_err(CgroupError::directory("read", file));
        if read(&file)?.trim().is_empty() {
            let above = read(&parent.join(name))?;
            write(&file, above.trim()).map_err(CgroupError::directory("write", &file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_cgroup_lacks_comes_from_above() {
        let mount = tempfile::tempdir().unwrap();
        let child = mount.path().join("child");
        fs::create_dir(&child).unwrap();
        for (directory, cpus, mems) in [(mount.path(), "0-3\n", "0\n"), (&child, "1\n", "\n")] {
            fs::write(directory.join("cpuset.cpus"), cpus).unwrap();
            fs::write(directory.join("cpuset.mems"), mems).unwrap();
        }
        inherit(mount.path(), &child).unwrap();
        let read = |name: &str| fs::read_to_string(child.join(name)).unwrap();
        assert_eq!(read("cpuset.cpus"), "1\n");
        assert!(read("cpuset.mems").starts_with('0'));
        // The root has all of them.
        inherit(mount.path(), mount.path()).unwrap();
    }
}
