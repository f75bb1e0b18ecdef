//! Tests with cgroups of this machine, where it has some that can be written.

mod devices;
mod limits;
mod users;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use oci_spec::runtime::LinuxResources;

use super::directory::Directory;
use super::layout::Layout;
use super::setting::write;
use super::tests::resources;
use super::*;

/// Returns the host's cgroup file systems; skips the test if it has none.
fn host() -> Layout {
    let layout = Layout::find().unwrap_or_else(|error| panic!("skipped: {error}"));
    let mounts = layout.v1.iter().map(|h| &h.mount).chain(&layout.v2);
    for mount in mounts {
        if nix::unistd::access(mount, nix::unistd::AccessFlags::W_OK).is_err() {
            panic!("skipped: {} can't be written", mount.display());
        }
    }
    layout
}

fn name(test: &str) -> PathBuf {
    PathBuf::from(format!("/nacre-test-{}-{test}/leaf", std::process::id()))
}

/// A test's cgroup, which is removed even if the test fails.
struct OfTest(Cgroup);

impl std::ops::Deref for OfTest {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for OfTest {
    fn drop(&mut self) {
        // The test has removed it already, or fails for another reason.
        let _ = self.0.remove();
    }
}

fn make(test: &str, resources: Option<&LinuxResources>) -> OfTest {
    OfTest(Cgroup::create(&name(test), resources).unwrap())
}

/// Returns the existing directories of any cgroup of a test.
fn left(layout: &Layout, path: &Path) -> Vec<PathBuf> {
    let top = path.components().nth(1).unwrap();
    let mounts = layout.v1.iter().map(|h| &h.mount).chain(&layout.v2);
    let tops = mounts.map(|mount| mount.join(top));
    tops.filter(|top| top.exists()).collect()
}

/// Whether the host has a controller, in either version.
fn has(layout: &Layout, controller: &str) -> bool {
    let mounts = layout.v2.iter();
    let mut lists =
        mounts.map(|m| fs::read_to_string(m.join("cgroup.controllers")).unwrap_or_default());
    layout.v1.iter().any(|h| h.has(controller))
        || lists.any(|list| list.split_whitespace().any(|c| c == controller))
}

/// Skips the test unless the host has a controller.
fn needs(layout: &Layout, controller: &str) {
    if !has(layout, controller) {
        panic!("skipped: no {controller} controller here");
    }
}

fn sleeper() -> Child {
    // If a failing test leaves it behind, it must not keep anything open that is waited for.
    Command::new("sleep")
        .arg("60")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn enter(cgroup: &Cgroup, below: &str, process: &Child) {
    for directory in cgroup.directories() {
        let file = directory.path.join(below).join("cgroup.procs");
        write(&file, &process.id().to_string()).unwrap();
    }
}

/// Runs a script in the cgroup.
fn run(cgroup: &Cgroup, script: &str) -> bool {
    let procs = cgroup.directories().map(|d| d.path.join("cgroup.procs"));
    let enter: Vec<String> = procs
        .map(|p| format!("echo $$ > {} &&", p.display()))
        .collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{} {script}", enter.join(" "))]);
    shell.stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().unwrap().success()
}

#[test]
#[ignore = "needs root, and cgroups"]
fn killing_and_removing_leaves_nothing() {
    let layout = host();
    for one_by_one in [false, true] {
        let path = name("kill");
        let cgroup = make("kill", None);
        for directory in cgroup.directories() {
            fs::create_dir_all(directory.path.join("a/b")).unwrap();
        }
        for v1 in &cgroup.v1 {
            if v1.has("cpuset") {
                let mount = &layout.v1.iter().find(|h| h.has("cpuset")).unwrap().mount;
                for below in ["a", "a/b"] {
                    v1::hierarchy::inherit_cpus(mount, &v1.directory.path.join(below));
                }
            }
        }
        let mut processes = [sleeper(), sleeper()];
        enter(&cgroup, "", &processes[0]);
        enter(&cgroup, "a/b", &processes[1]);
        let mut pids: Vec<i32> = processes.iter().map(|p| p.id() as i32).collect();
        pids.sort_unstable();
        assert_eq!(cgroup.processes().unwrap(), pids);
        assert!(matches!(
            Cgroup::create(&path, None),
            Err(CgroupError::InUse { .. })
        ));
        if one_by_one {
            cgroup.kill_one_by_one().unwrap();
        }
        cgroup.remove().unwrap();
        for process in &mut processes {
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        assert!(left(&layout, &path).is_empty());
        assert!(cgroup.processes().unwrap().is_empty());
        // Again: it is fine that it is gone.
        cgroup.remove().unwrap();
    }
}

#[test]
#[ignore = "needs root, and cgroups"]
fn one_without_processes_is_made_anew() {
    let layout = host();
    let path = name("anew");
    let cgroup = make("anew", None);
    let below = |directory: &Directory| directory.path.join("a/b");
    for directory in cgroup.directories() {
        fs::create_dir_all(below(directory)).unwrap();
    }
    Cgroup::create(&path, None).unwrap();
    assert!(
        !cgroup
            .directories()
            .any(|directory| below(directory).exists())
    );
    cgroup.remove().unwrap();
    assert!(left(&layout, &path).is_empty());
}

#[test]
#[ignore = "needs root, and cgroups"]
fn signals_reach_all_and_freezing_stops_them() {
    host();
    let cgroup = make("freeze", None);
    let mut process = sleeper();
    enter(&cgroup, "", &process);
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    // What was frozen before stays frozen.
    cgroup.signal_all(libc::SIGTERM).unwrap();
    assert!(cgroup.is_frozen().unwrap());
    cgroup.thaw().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGTERM));
    assert!(!cgroup.is_frozen().unwrap());
    // A frozen cgroup can be removed.
    let mut process = sleeper();
    enter(&cgroup, "", &process);
    cgroup.freeze().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(!cgroup.is_frozen().unwrap());
}

#[test]
#[ignore = "needs root, and cgroups"]
fn an_empty_cgroup_is_replaced() {
    let layout = host();
    let path = name("empty");
    let relative = path.strip_prefix("/").unwrap();
    let mounts = layout.v1.iter().map(|h| &h.mount).chain(&layout.v2);
    for mount in mounts.clone() {
        fs::create_dir_all(mount.join(relative)).unwrap();
    }
    let cgroup = Cgroup::create(&path, None).unwrap();
    cgroup.remove().unwrap();
    // `remove` left what `create` hadn't made.
    for mount in mounts {
        fs::remove_dir(mount.join(relative.parent().unwrap())).unwrap();
    }
}

#[test]
#[ignore = "needs root, and cgroups"]
fn a_failed_creation_leaves_nothing() {
    let layout = host();
    let path = name("failed");
    let resources = resources(r#"{"rdma": {"no-such-device": {"hcaHandles": 1}}}"#);
    let error = Cgroup::create(&path, Some(&resources)).unwrap_err();
    assert!(
        error.to_string().starts_with("linux.resources.rdma"),
        "{error}"
    );
    assert!(left(&layout, &path).is_empty());
}
