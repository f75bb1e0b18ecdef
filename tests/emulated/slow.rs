//! A VM on a host that gives it little CPU time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nacre_tests::{Case, leftovers, nacre};

nacre_tests::tests![a_guest_has_its_own_time_to_boot];

/// A cgroup whose processes get a tenth of a processor.
struct Slow {
    name: String,
}

impl Slow {
    fn new(case: &Case) -> Self {
        let name = format!("{}.slow", case.id());
        let root = Path::new("/sys/fs/cgroup");
        let make = |root: PathBuf, file: &str, value: &str| {
            let directory = root.join(&name);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join(file), value).unwrap();
        };
        if root.join("cgroup.controllers").exists() {
            fs::write(root.join("cgroup.subtree_control"), "+cpu").unwrap();
            make(root.to_owned(), "cpu.max", "10000 100000");
        } else {
            // The quota is for a period of the default length, 100 ms.
            make(root.join("cpu"), "cpu.cfs_quota_us", "10000");
        }
        Self { name }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        leftovers::remove_empty_cgroups(&self.name);
    }
}

/// A boot needs less than a second of CPU time, which takes several seconds here.
fn a_guest_has_its_own_time_to_boot(case: &Case) {
    let slow = Slow::new(case);
    let bundle = case.busybox().args(["true"]);
    let bundle = bundle.set("/linux/cgroupsPath", format!("/{}/inner", slow.name));
    let configuration = case.directory().join("other.toml");
    let lines = format!(
        "[vm]\nkernel = {:?}\nagent = {:?}\nboot-timeout = 3\n",
        nacre::kernel(),
        nacre::binary("nacre-agent")
    );
    fs::write(&configuration, lines).unwrap();
    let mut command = case.nacre_with(&configuration);
    command
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let began = Instant::now();
    case.spawn(command).finish().ok();
    let took = began.elapsed();
    assert!(took > Duration::from_secs(3), "it wasn't slow: {took:?}");
}
