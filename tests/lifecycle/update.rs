//! `nacre update`: new limits for a running container.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use nacre_tests::{Case, Isolation};
use nix::unistd::Pid;

nacre_tests::tests![
    memory,
    cpu_time,
    cpus,
    processes,
    io_weight,
    several_at_once_leave_the_others,
    a_document_with_resources,
    what_the_kernel_refuses,
    a_lower_limit_holds,
];

/// Returns the directory of a process's cgroup: with version 1, in the controller's hierarchy.
pub(super) fn cgroup(case: &Case, pid: Pid, controller: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let path = fields.next()?.trim_start_matches('/');
            controllers.split(',').any(|c| c == wanted).then_some(path)
        })
    };
    let root = Path::new("/sys/fs/cgroup");
    if case.has_cgroup2() {
        root.join(path("").unwrap())
    } else {
        root.join(controller).join(path(controller).unwrap())
    }
}

/// Returns the content of a file of the container's cgroup, if it exists: for a VM, the guest's.
fn read(case: &Case, pid: Pid, controller: &str, name: &str) -> Option<String> {
    match case.isolation() {
        Isolation::Process => fs::read_to_string(cgroup(case, pid, controller).join(name)).ok(),
        Isolation::Vm => {
            let file = format!("/sys/fs/cgroup/{name}");
            let outcome = case.command(&["exec", case.id(), "cat", &file]);
            (outcome.status() == Some(0)).then(|| outcome.text())
        }
    }
}

/// Fails unless these files of the container's cgroup have this content: each is a controller, the
/// name in version 1, the name in version 2, and the content in each. A file that a version doesn't
/// have has an empty name.
#[track_caller]
fn expect(case: &Case, pid: Pid, files: &[(&str, &str, &str, &str, &str)]) {
    for (controller, name1, value1, name2, value2) in files {
        let (name, value) = if case.has_cgroup2() {
            (name2, value2)
        } else {
            (name1, value1)
        };
        if name.is_empty() {
            continue;
        }
        let is = read(case, pid, controller, name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(is.trim_end(), *value, "{name}");
    }
}

/// Runs `nacre update` with these flags, which must succeed.
#[track_caller]
fn update(case: &Case, flags: &[&str]) {
    let mut words = vec!["update"];
    words.extend(flags);
    words.push(case.id());
    assert_eq!(case.command(&words).ok(), "");
}

fn memory(case: &Case) {
    let pid = case.idle();
    let flags = [
        "--memory",
        "67108864",
        "--memory-swap",
        "100663296",
        "--memory-reservation",
        "33554432",
    ];
    update(case, &flags);
    expect(
        case,
        pid,
        &[
            (
                "memory",
                "memory.limit_in_bytes",
                "67108864",
                "memory.max",
                "67108864",
            ),
            (
                "memory",
                "memory.memsw.limit_in_bytes",
                "100663296",
                "memory.swap.max",
                "33554432",
            ),
            (
                "memory",
                "memory.soft_limit_in_bytes",
                "33554432",
                "memory.low",
                "33554432",
            ),
        ],
    );
    // First above the old limit of memory and swap together, then below it again.
    for bytes in ["268435456", "50331648"] {
        update(case, &["--memory", bytes, "--memory-swap", bytes]);
        expect(
            case,
            pid,
            &[
                (
                    "memory",
                    "memory.limit_in_bytes",
                    bytes,
                    "memory.max",
                    bytes,
                ),
                (
                    "memory",
                    "memory.memsw.limit_in_bytes",
                    bytes,
                    "memory.swap.max",
                    "0",
                ),
            ],
        );
    }
    case.remove_container();
}

fn cpu_time(case: &Case) {
    let pid = case.idle();
    let flags = [
        "--cpu-period",
        "50000",
        "--cpu-quota",
        "20000",
        "--cpu-share",
        "512",
    ];
    update(case, &flags);
    expect(
        case,
        pid,
        &[
            (
                "cpu",
                "cpu.cfs_period_us",
                "50000",
                "cpu.max",
                "20000 50000",
            ),
            ("cpu", "cpu.cfs_quota_us", "20000", "", ""),
            ("cpu", "cpu.shares", "512", "", ""),
        ],
    );
    // Sets one without the other.
    update(case, &["--cpu-quota", "30000"]);
    expect(
        case,
        pid,
        &[
            (
                "cpu",
                "cpu.cfs_period_us",
                "50000",
                "cpu.max",
                "30000 50000",
            ),
            ("cpu", "cpu.cfs_quota_us", "30000", "", ""),
        ],
    );
    case.remove_container();
}

fn cpus(case: &Case) {
    let pid = case.idle();
    update(case, &["--cpuset-cpus", "0", "--cpuset-mems", "0"]);
    expect(
        case,
        pid,
        &[
            ("cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"),
            ("cpuset", "cpuset.mems", "0", "cpuset.mems", "0"),
        ],
    );
    case.remove_container();
}

fn processes(case: &Case) {
    let pid = case.idle();
    update(case, &["--pids-limit", "33"]);
    expect(case, pid, &[("pids", "pids.max", "33", "pids.max", "33")]);
    update(case, &["--pids-limit", "-1"]);
    expect(case, pid, &[("pids", "pids.max", "max", "pids.max", "max")]);
    case.remove_container();
}

fn io_weight(case: &Case) {
    let pid = case.idle();
    let names = [
        "blkio.weight",
        "blkio.bfq.weight",
        "io.weight",
        "io.bfq.weight",
    ];
    let weights = || -> Vec<String> {
        let read = |name: &&str| read(case, pid, "blkio", name);
        names.iter().filter_map(read).collect()
    };
    let before = weights();
    let has = !before.is_empty();
    if has {
        update(case, &["--blkio-weight", "500"]);
        assert_ne!(weights(), before);
    }
    case.remove_container();
    if !has {
        case.ignore("this host's kernel has no I/O weights");
    }
}

fn several_at_once_leave_the_others(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/resources/memory",
            serde_json::json!({ "limit": 134_217_728 }),
        )
        .set("/linux/resources/pids", serde_json::json!({ "limit": 50 }))
        .args(["sleep", "1000"]);
    let pid = case.detach(&bundle);
    update(case, &["--cpu-period", "100000", "--cpu-quota", "70000"]);
    update(case, &[]);
    expect(
        case,
        pid,
        &[
            (
                "memory",
                "memory.limit_in_bytes",
                "134217728",
                "memory.max",
                "134217728",
            ),
            ("pids", "pids.max", "50", "pids.max", "50"),
            (
                "cpu",
                "cpu.cfs_quota_us",
                "70000",
                "cpu.max",
                "70000 100000",
            ),
        ],
    );
    case.remove_container();
}

fn a_document_with_resources(case: &Case) {
    let pid = case.idle();
    let document = r#"{ "memory": { "limit": 67108864 }, "pids": { "limit": 22 },
                        "cpu": { "quota": 40000, "period": 80000 } }"#;
    let expected = [
        (
            "memory",
            "memory.limit_in_bytes",
            "67108864",
            "memory.max",
            "67108864",
        ),
        ("pids", "pids.max", "22", "pids.max", "22"),
        ("cpu", "cpu.cfs_quota_us", "40000", "cpu.max", "40000 80000"),
    ];
    let path = case.directory().join("resources.json");
    fs::write(&path, document).unwrap();
    update(case, &["--resources", path.to_str().unwrap()]);
    expect(case, pid, &expected);

    // Reads the limits from standard input.
    update(case, &["--pids-limit", "44"]);
    let mut command = case.nacre();
    command.args(["update", "--resources", "-", case.id()]);
    let mut running = case.spawn(command);
    running
        .stdin
        .take()
        .unwrap()
        .write_all(document.as_bytes())
        .unwrap();
    assert_eq!(running.finish().ok(), "");
    expect(case, pid, &expected);

    for bad in [
        "",
        "[]",
        "{\"memory\": 5}",
        "{\"memory\": {\"limit\": \"much\"}}",
    ] {
        fs::write(&path, bad).unwrap();
        case.command(&["update", "--resources", path.to_str().unwrap(), case.id()])
            .refused(1);
    }
    expect(case, pid, &expected);
    case.remove_container();
}

fn what_the_kernel_refuses(case: &Case) {
    let pid = case.idle();
    case.command(&["update", "--cpuset-cpus", "4000", case.id()])
        .refused(1);
    case.command(&["update", "--memory", "lots", case.id()])
        .refused_somehow();
    assert!(read(case, pid, "memory", "cgroup.procs").is_some());
    assert_eq!(case.status(), "running");
    case.remove_container();
}

fn a_lower_limit_holds(case: &Case) {
    let bundle = case.busybox().shell(
        "trap 'sleep 0.01 & sleep 0.01 & sleep 0.01 & sleep 0.01 & sleep 0.01 & echo forked' USR1
         echo ready; while :; do read -t 1 x <>/dev/null || :; done",
    );
    case.detach(&bundle);
    case.wait_for_output("ready");
    case.command(&["kill", case.id(), "USR1"]).ok();
    case.wait_for_output("forked");
    update(case, &["--pids-limit", "2"]);
    case.command(&["kill", case.id(), "USR1"]).ok();
    case.wait_for_output("can't fork");
    case.remove_container();
}
