//! Tests with cgroups of this machine, where it has some that can be written.

mod devices;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

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

#[test]
#[ignore = "needs root, and cgroups"]
fn limits_reach_the_kernel() {
    let layout = host();
    for (controller, json, v1, v2) in [
        (
            "memory",
            r#"{"memory": {"limit": 8388608, "swap": 16777216}}"#,
            ("memory.memsw.limit_in_bytes", "16777216"),
            ("memory.max", "8388608"),
        ),
        (
            "memory",
            r#"{"memory": {"reservation": 4096}}"#,
            ("memory.soft_limit_in_bytes", "4096"),
            ("memory.low", "4096"),
        ),
        (
            "cpu",
            r#"{"cpu": {"shares": 2048}}"#,
            ("cpu.shares", "2048"),
            ("cpu.weight", "174"),
        ),
        (
            "cpu",
            r#"{"cpu": {"quota": 20000}}"#,
            ("cpu.cfs_quota_us", "20000"),
            ("cpu.max", "20000 100000"),
        ),
        (
            "cpu",
            r#"{"cpu": {"quota": 20000, "period": 50000, "burst": 10000}}"#,
            ("cpu.cfs_burst_us", "10000"),
            ("cpu.max", "20000 50000"),
        ),
        (
            "cpu",
            r#"{"cpu": {"idle": 1}}"#,
            ("cpu.idle", "1"),
            ("cpu.idle", "1"),
        ),
        (
            "cpuset",
            r#"{"cpu": {"cpus": "0", "mems": "0"}}"#,
            ("cpuset.cpus", "0"),
            ("cpuset.cpus", "0"),
        ),
        (
            "pids",
            r#"{"pids": {"limit": 5}}"#,
            ("pids.max", "5"),
            ("pids.max", "5"),
        ),
        (
            "hugetlb",
            r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
            ("hugetlb.2MB.limit_in_bytes", "4194304"),
            ("hugetlb.2MB.max", "4194304"),
        ),
    ] {
        if has(&layout, controller) {
            let cgroup = make("limits", Some(&resources(json)));
            let (directory, (file, expected)) = match cgroup.v1_with(controller) {
                Some(directory) => (directory, v1),
                None => (cgroup.path(), v2),
            };
            let value = fs::read_to_string(directory.join(file)).unwrap();
            assert_eq!(value.trim(), expected, "{json}");
            cgroup.remove().unwrap();
        }
    }
}

#[test]
#[ignore = "needs root, and cgroups"]
fn passing_the_memory_limit_kills_and_is_counted() {
    let layout = host();
    needs(&layout, "memory");
    let resources = resources(r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#);
    let cgroup = make("oom", Some(&resources));
    run(&cgroup, "head -c 64M /dev/zero | tail");
    assert_eq!(cgroup.oom_kills().unwrap(), 1);
    cgroup.remove().unwrap();
}

#[test]
#[ignore = "needs root, and cgroups"]
fn cpus_that_are_not_there_are_refused() {
    let layout = host();
    needs(&layout, "cpuset");
    let resources = resources(r#"{"cpu": {"cpus": "0,4095"}}"#);
    let error = Cgroup::create(&name("cpus"), Some(&resources)).unwrap_err();
    // The kernel itself refuses CPUs beyond what it is built for.
    assert!(
        matches!(
            error,
            CgroupError::Unavailable { .. } | CgroupError::Write { .. }
        ),
        "{error}"
    );
}

#[test]
#[ignore = "needs root, and cgroups"]
fn only_what_is_given_is_updated() {
    let layout = host();
    needs(&layout, "memory");
    needs(&layout, "pids");
    let json = r#"{"memory": {"limit": 8388608, "swap": 8388608}, "pids": {"limit": 5}}"#;
    let cgroup = make("update", Some(&resources(json)));
    let read = |v1: &str, v2: &str| {
        let (controller, _) = v1.split_once('.').unwrap();
        let file = match cgroup.v1_with(controller) {
            Some(directory) => directory.join(v1),
            None => cgroup.path().join(v2),
        };
        fs::read_to_string(file).unwrap().trim().to_owned()
    };
    let limit = || read("memory.limit_in_bytes", "memory.max");
    let pids = || read("pids.max", "pids.max");
    let update = |json: &str| cgroup.update(&resources(json));
    update(r#"{"pids": {"limit": 6}}"#).unwrap();
    assert_eq!((limit(), pids()), ("8388608".into(), "6".into()));
    // Up and down: on version 1 the limit must never exceed the one with swap.
    for limits in [(33_554_432, 67_108_864), (4_194_304, 8_388_608)] {
        let (memory, swap) = limits;
        update(&format!(
            r#"{{"memory": {{"limit": {memory}, "swap": {swap}}}}}"#
        ))
        .unwrap();
        assert_eq!(limit(), memory.to_string());
    }
    // Swap alone: the limit on memory, which swap includes, stays.
    update(r#"{"memory": {"swap": 12582912}}"#).unwrap();
    assert_eq!(limit(), "4194304");
    let swap = read("memory.memsw.limit_in_bytes", "memory.swap.max");
    assert!(["12582912", "8388608"].contains(&&*swap), "{swap}");
    // An update that isn't possible as a whole changes nothing.
    let error = update(r#"{"pids": {"limit": 7}, "rdma": {"none": {"hcaHandles": 1}}}"#);
    assert!(error.unwrap_err().to_string().contains("rdma"));
    let error = update(r#"{"pids": {"limit": 7}, "cpu": {"mems": "7"}}"#);
    error.unwrap_err();
    assert_eq!(pids(), "6");
    cgroup.remove().unwrap();
}

#[test]
#[ignore = "needs root, and cgroups"]
fn use_is_counted() {
    let layout = host();
    let json = r#"{"pids": {"limit": 5}}"#;
    let limits = has(&layout, "pids").then(|| resources(json));
    let cgroup = make("stats", limits.as_ref());
    let mut process = sleeper();
    enter(&cgroup, "", &process);
    // Memory of ended processes is no longer counted; the cache of a file is.
    let file = std::env::temp_dir().join(format!("nacre-test-{}-stats", std::process::id()));
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 1M /dev/zero";
    assert!(run(
        &cgroup,
        &format!("{{ {script} > {}; }}", file.display())
    ));
    let stats = cgroup.stats().unwrap();
    fs::remove_file(&file).unwrap();
    assert!(stats.cpu.usage.total > 0, "{stats:?}");
    if limits.is_some() {
        assert_eq!((stats.pids.current, stats.pids.limit), (1, 5));
    }
    if has(&layout, "memory") {
        assert!(stats.memory.usage.usage > 0, "{stats:?}");
        assert!(
            stats.memory.swap.usage >= stats.memory.usage.usage,
            "{stats:?}"
        );
        assert!(!stats.memory.raw.is_empty());
    }
    cgroup.remove().unwrap();
    process.wait().unwrap();
}

#[test]
#[ignore = "needs root, and cgroups"]
fn running_out_of_memory_is_heard_of() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    let layout = host();
    needs(&layout, "memory");
    let limit = resources(r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#);
    let cgroup = make("watch", Some(&limit));
    let mut process = sleeper();
    enter(&cgroup, "", &process);
    let mut watch = cgroup.oom_watch().unwrap().unwrap();
    let readable = |watch: &OomWatch| {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(5000u16)).unwrap() == 1
    };
    assert_eq!(watch.count().unwrap(), Some(0));
    run(&cgroup, "head -c 64M /dev/zero | tail");
    assert!(readable(&watch));
    let mut seen = watch.count().unwrap().unwrap();
    for _ in 0..50 {
        // The count may come a little after the notification.
        if seen > 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        seen += watch.count().unwrap().unwrap();
    }
    assert!(seen > 0);
    cgroup.remove().unwrap();
    process.wait().unwrap();
    assert!(readable(&watch));
    assert_eq!(watch.count().unwrap(), None);
}

#[test]
#[ignore = "needs root, and cgroups"]
fn an_ordinary_user_goes_without_where_nothing_is_asked_for() {
    let layout = host();
    if !nix::unistd::geteuid().is_root() {
        panic!("skipped: it needs root, to become another user");
    }
    let made = std::thread::spawn(|| {
        // SAFETY: no pointers. The bare call, unlike libc's, changes only this thread's user.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        let create = |path: Option<&str>, json: &str| {
            let path = path.map(Path::new);
            // SAFETY: no process is made without systemd.
            unsafe { Manager::Files.create(path, "nacre-test-user", Some(&resources(json))) }
        };
        let none = create(None, r#"{"devices": [{"allow": false}]}"#).unwrap();
        assert!(none.is_none());
        let limit = create(None, r#"{"pids": {"limit": 3}}"#).unwrap_err();
        let path = create(Some("/nacre-test-user/a"), "{}").unwrap_err();
        (limit.to_string(), path.to_string())
    });
    let (limit, path) = made.join().unwrap();
    assert!(limit.starts_with("linux.resources.pids.limit "), "{limit}");
    assert!(path.starts_with("linux.cgroupsPath "), "{path}");
    assert!(left(&layout, Path::new("/nacre-test-user")).is_empty());
}

/// Checks a cgroup that is delegated to a user as systemd does it.
#[test]
#[ignore = "needs root, and cgroups"]
fn an_ordinary_user_may_use_what_was_delegated() {
    let layout = host();
    if !layout.v1.is_empty() || !nix::unistd::geteuid().is_root() {
        panic!("skipped: it needs root, and cgroup v2 alone");
    }
    let mount = layout.v2.as_ref().unwrap();
    let path = name("delegated");
    let given = v2::make(mount, path.strip_prefix("/").unwrap()).unwrap();
    for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(given.path.join(file), Some(65534), None).unwrap();
    }
    let below = path.join("container");
    std::thread::spawn(move || {
        // SAFETY: as above.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        let limits = resources(r#"{"pids": {"limit": 3}, "devices": [{"allow": false}]}"#);
        // SAFETY: no process is made without systemd.
        let cgroup = unsafe { Manager::Files.create(Some(&below), "x", Some(&limits)) };
        let cgroup = cgroup.unwrap().unwrap().cgroup;
        let limit = fs::read_to_string(cgroup.path().join("pids.max")).unwrap();
        assert_eq!(limit.trim(), "3");
        cgroup.remove().unwrap();
    })
    .join()
    .unwrap();
    given.remove(Instant::now()).unwrap();
}
