//! Limits, and whether they are enforced.

use nacre_tests::{Case, Isolation};
use serde_json::json;

nacre_tests::tests![
    a_workload_over_its_memory_limit_is_killed,
    a_child_over_the_memory_limit_is_killed,
    limits_are_what_was_asked_for,
    limits_of_version_1: Process,
    an_io_weight_is_set: Vm,
    an_io_rate_of_a_device_that_a_vm_lacks_is_refused: Vm,
    a_cpu_quota_holds,
    a_cpuset_holds,
    forks_fail_at_the_process_limit,
    exec_at_the_process_limit_names_it,
    files_by_name,
];

const MIB: i64 = 1 << 20;

fn a_workload_over_its_memory_limit_is_killed(case: &Case) {
    // `dd` fills a buffer of 200 MiB.
    let dd = ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"];
    let bundle = case
        .busybox()
        .set(
            "/linux/resources/memory",
            json!({ "limit": 64 * MIB, "swap": 64 * MIB }),
        )
        .args(dd);
    let outcome = case.run(&bundle);
    outcome.expect(137);
    if case.isolation() == Isolation::Vm {
        assert!(outcome.log.contains("memory limit"), "{}", outcome.log);
    }
    let bundle = case
        .busybox()
        .set("/linux/resources/memory", json!({ "limit": 300 * MIB }))
        .args(dd);
    case.run(&bundle).expect(0);
}

fn a_child_over_the_memory_limit_is_killed(case: &Case) {
    let bundle = case
        .busybox()
        .set("/linux/resources/memory", json!({ "limit": 64 * MIB }))
        .shell(
            "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo $?
             cd /sys/fs/cgroup; cat memory.events memory/memory.oom_control 2>/dev/null |
             grep '^oom_kill '",
        );
    // The shell's message about the kill goes to standard error.
    assert_eq!(case.run(&bundle).expect(0), "137\noom_kill 1\n");
}

fn exec_at_the_process_limit_names_it(case: &Case) {
    let bundle = case
        .busybox()
        .set("/linux/resources/pids", json!({ "limit": 3 }))
        .shell("sleep 1000 & sleep 1000 & echo ready; wait");
    case.detach(&bundle);
    case.wait_for_output("ready");
    let message = case.command(&["exec", case.id(), "true"]).refused(255);
    assert!(message.contains("linux.resources.pids.limit"), "{message}");
    case.remove_container();
}

/// Ends the tests that read the files of version 2 where there is only version 1.
fn needs_version_2(case: &Case) {
    if !case.has_cgroup2() {
        case.ignore("this host's cgroups aren't version 2");
    }
}

fn limits_are_what_was_asked_for(case: &Case) {
    needs_version_2(case);
    let bundle = case
        .busybox()
        .annotation("dev.nacre.vm.cpus", "2")
        .set(
            "/linux/resources/memory",
            json!({ "limit": 128 * MIB, "swap": 160 * MIB, "reservation": 100 * MIB }),
        )
        .set(
            "/linux/resources/cpu",
            json!({ "shares": 1024, "quota": 150_000, "period": 100_000, "cpus": "0-1" }),
        )
        .set("/linux/resources/pids", json!({ "limit": 42 }))
        .shell(
            "cd /sys/fs/cgroup; for f in memory.max memory.swap.max memory.low cpu.weight cpu.max \
             cpuset.cpus pids.max; do [ -e $f ] && echo $f $(cat $f); done; cat /proc/self/cgroup",
        );
    let output = case.run(&bundle).ok();
    let value = |name: &str| {
        output
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")))
            .map(str::to_owned)
    };
    let expect = |name: &str, expected: &str| {
        assert_eq!(value(name).as_deref(), Some(expected), "{name}:\n{output}");
    };
    expect("memory.max", &(128 * MIB).to_string());
    expect("memory.low", &(100 * MIB).to_string());
    expect("cpu.max", "150000 100000");
    expect("cpuset.cpus", "0-1");
    expect("pids.max", "42");
    // The guest has no swap; its kernel may leave the file out.
    if let Some(swap) = value("memory.swap.max") {
        assert_eq!(swap, (32 * MIB).to_string());
    }
    // The default shares are somewhere around the default weight.
    let weight: u32 = value("cpu.weight").unwrap().parse().unwrap();
    assert!((30..=110).contains(&weight), "cpu.weight {weight}");
    assert!(
        output.ends_with("0::/\n"),
        "the cgroup namespace's root:\n{output}"
    );
}

fn limits_of_version_1(case: &Case) {
    if case.has_cgroup2() {
        case.ignore("this host's cgroups are version 2");
    }
    let bundle = case
        .busybox()
        .set(
            "/linux/resources/memory",
            json!({ "limit": 128 * MIB, "swap": 160 * MIB, "reservation": 100 * MIB }),
        )
        .set(
            "/linux/resources/cpu",
            json!({ "shares": 512, "quota": 150_000, "period": 100_000, "cpus": "0" }),
        )
        .set("/linux/resources/pids", json!({ "limit": 42 }))
        .shell(
            "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes \
             memory/memory.soft_limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us \
             cpu/cpu.cfs_period_us cpuset/cpuset.cpus pids/pids.max",
        );
    let expected = [
        128 * MIB,
        160 * MIB,
        100 * MIB,
        512,
        150_000,
        100_000,
        0,
        42,
    ];
    let expected: String = expected.iter().map(|value| format!("{value}\n")).collect();
    assert_eq!(case.run(&bundle).ok(), expected);
}

fn an_io_weight_is_set(case: &Case) {
    let bundle = case
        .busybox()
        .set("/linux/resources/blockIO", json!({ "weight": 500 }))
        .args(["cat", "/sys/fs/cgroup/io.weight"]);
    // The range of 10 to 1000 is mapped linearly to that of 1 to 10000.
    assert_eq!(case.run(&bundle).ok(), "default 4950\n");
}

/// It is never ignored silently: the guest has no such disk, or another one with that number, so
/// the limit can't hold.
fn an_io_rate_of_a_device_that_a_vm_lacks_is_refused(case: &Case) {
    for major in [8, 254] {
        let rate = json!([{ "major": major, "minor": 0, "rate": 1 << 20 }]);
        let bundle = case
            .busybox()
            .annotation("dev.nacre.vm.rootfs", "overlay")
            .annotation("dev.nacre.vm.rootfs.disk", "16M")
            .set("/linux/resources/blockIO/throttleReadBpsDevice", rate);
        let message = case.run(&bundle).refused(1);
        assert!(
            message.contains("blockIO.throttleReadBpsDevice"),
            "{message}"
        );
    }
}

fn a_cpu_quota_holds(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/resources/cpu",
            // On a busy machine the weight gets it that much.
            json!({ "shares": 262_144, "quota": 20_000, "period": 100_000 }),
        )
        .shell(
            "look() { cut -d' ' -f1 /proc/uptime; cd /sys/fs/cgroup; cat cpu.stat cpu/cpu.stat
                 sed 's/^/usage_nsec /' cpuacct/cpuacct.usage; } 2>/dev/null
             look; timeout 3 sh -c 'while :; do :; done'; look; true",
        );
    let output = case.run(&bundle).expect(0);
    let numbers = |name: &str| -> Vec<f64> {
        let lines = output.lines().filter_map(|line| line.strip_prefix(name));
        lines.filter_map(|number| number.parse().ok()).collect()
    };
    let growth = |name: &str| match numbers(name)[..] {
        [before, after] => after - before,
        _ => panic!("{name} isn't there twice:\n{output}"),
    };
    let seconds = if case.has_cgroup2() {
        growth("usage_usec ") / 1e6
    } else {
        growth("usage_nsec ") / 1e9
    };
    let used = seconds / growth("");
    assert!(growth("nr_throttled ") > 5.0, "{output}");
    assert!((0.05..0.35).contains(&used), "{used} of a CPU:\n{output}");
}

fn a_cpuset_holds(case: &Case) {
    let cpus = match case.isolation() {
        Isolation::Vm => 2,
        Isolation::Process => online_cpus(),
    };
    if cpus < 2 {
        case.ignore("this host has one CPU");
    }
    let bundle = case
        .busybox()
        .annotation("dev.nacre.vm.cpus", "2")
        .set("/linux/resources/cpu", json!({ "cpus": "1" }))
        .shell(
            "nproc; grep ^Cpus_allowed_list /proc/self/status; grep -c ^processor /proc/cpuinfo",
        );
    assert_eq!(
        case.run(&bundle).ok(),
        format!("1\nCpus_allowed_list:\t1\n{cpus}\n")
    );
}

fn forks_fail_at_the_process_limit(case: &Case) {
    let bundle = case
        .busybox()
        .set("/linux/resources/pids", json!({ "limit": 5 }))
        .shell("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo not reached");
    let outcome = case.run(&bundle);
    assert_eq!(outcome.text(), "");
    assert_ne!(outcome.status(), Some(0));
    assert!(
        outcome
            .stderr
            .contains("can't fork: Resource temporarily unavailable"),
        "{}",
        outcome.stderr
    );
}

fn files_by_name(case: &Case) {
    needs_version_2(case);
    let bundle = case
        .busybox()
        .set(
            "/linux/resources/unified",
            json!({ "memory.high": "50000000", "pids.max": "99" }),
        )
        .shell("cd /sys/fs/cgroup; cat memory.high pids.max");
    // Rounded to whole pages.
    assert_eq!(case.run(&bundle).ok(), "49999872\n99\n");
}

fn online_cpus() -> usize {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    info.lines()
        .filter(|line| line.starts_with("processor"))
        .count()
}
