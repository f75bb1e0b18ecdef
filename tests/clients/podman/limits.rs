//! Limits that Podman sets, and what happens when they are reached.

use std::fs;

use nacre_tests::Case;

use super::Podman;

nacre_tests::tests![limits, out_of_memory, update,];

/// Prints a limit from its file, by its name in cgroup version 1 and in version 2.
fn shows(version_1: &str, version_2: &str) -> String {
    format!("cd /sys/fs/cgroup; cat {version_1} 2>/dev/null || cat {version_2}")
}

fn limits(case: &Case) {
    let podman = Podman::new(case);
    let script = [
        shows("memory/memory.limit_in_bytes", "memory.max"),
        shows("pids/pids.max", "pids.max"),
        shows("cpu/cpu.cfs_quota_us", "cpu.max"),
        shows("cpuset/cpuset.cpus", "cpuset.cpus"),
    ]
    .join("; ");
    let flags = [
        "--memory",
        "64m",
        "--pids-limit",
        "10",
        "--cpus",
        "0.5",
        "--cpuset-cpus",
        "0",
    ];
    let output = podman.once(&flags, &["sh", "-c", &script]).expect(0);
    let lines: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(lines[..3], ["67108864", "10", "50000"], "{output}");
    assert_eq!(lines.last(), Some(&"0"), "{output}");
    let forks = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; echo not reached";
    let outcome = podman.once(&["--pids-limit", "4"], &["sh", "-c", forks]);
    assert!(outcome.stderr.contains("can't fork"), "{outcome:?}");
    let flags = [
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "nproc=1024:1024",
        "--shm-size",
        "1m",
        "--oom-score-adj",
        "200",
    ];
    let script = "ulimit -n; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2
                  cat /proc/self/oom_score_adj";
    assert_eq!(
        podman.once(&flags, &["sh", "-c", script]).expect(0),
        "100\n1024\n200\n"
    );
    podman.clear();
}

fn out_of_memory(case: &Case) {
    let podman = Podman::new(case);
    let limit = ["--memory", "32m", "--memory-swap", "32m"];
    podman.detach(
        &limit,
        "until [ -e /go ]; do sleep 0.05; done; exec dd if=/dev/zero of=/dev/null bs=100M count=1",
    );
    // It is killed only once Podman has seen it running.
    podman.ok(&["exec", "c", "touch", "/go"]);
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    // `OOMKilled` in `podman inspect` stands for the file that conmon leaves where it was started,
    // which Podman 4.3 looks for in another place.
    let word = case.directory().join("oom");
    assert!(word.exists(), "conmon has heard of no OOM kill");
    fs::remove_file(&word).unwrap();
    podman.ok(&["rm", "c"]);
    podman.detach(&limit, "exit 137");
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    assert!(!word.exists(), "conmon has heard of an OOM kill");
    podman.clear();
}

fn update(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(&["--memory", "128m"], "sleep 1000");
    let outcome = podman.run(&["update", "--memory", "64m", "c"]);
    if outcome.stderr.contains("unrecognized command") {
        podman.clear();
        case.ignore("this podman has no update");
    }
    outcome.expect(0);
    let script = shows("memory/memory.limit_in_bytes", "memory.max");
    assert_eq!(podman.ok(&["exec", "c", "sh", "-c", &script]), "67108864\n");
    podman.clear();
}
