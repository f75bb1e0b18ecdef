//! Limits that reach the kernel, and what it counts against them.

use super::*;

/// A file of a cgroup, and what it says when a limit is set.
type Shown = (&'static str, &'static str);

/// Limits: the controller, the words of `config.json`, and what shows it on version 1 and on version 2.
const LIMITS: [(&str, &str, Shown, Shown); 9] = [
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
];

#[test]
#[ignore = "needs root, and cgroups"]
fn limits_reach_the_kernel() {
    let layout = host();
    for (controller, json, v1, v2) in LIMITS {
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
