//! Exit statuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nacre_tests::{Case, elf};

nacre_tests::tests![
    the_workloads_status_is_the_commands,
    a_killed_workload_gives_128_and_the_signal,
    a_fault_gives_128_and_the_signal,
    a_second_run_may_use_the_id_again,
];

fn the_workloads_status_is_the_commands(case: &Case) {
    for status in [0, 1, 42, 126, 127, 128, 255] {
        let bundle = case.busybox().shell(&format!("exit {status}"));
        let outcome = case.run(&bundle);
        outcome.expect(status);
        assert_eq!(outcome.stderr, "", "status {status}");
    }
}

fn a_killed_workload_gives_128_and_the_signal(case: &Case) {
    // The first process of a pid namespace is immune to signals that come from inside, so
    // this container has none of its own.
    for signal in [6, 9, 15] {
        let bundle = case
            .busybox()
            .set("/linux/namespaces", own_namespaces_but("pid"))
            .shell(&format!("kill -{signal} $$; echo survived"));
        assert_eq!(case.run(&bundle).expect(128 + signal), "");
    }
}

/// Returns every kind of namespace but one.
pub(crate) fn own_namespaces_but(kind: &str) -> Vec<serde_json::Value> {
    ["pid", "network", "ipc", "uts", "mount", "cgroup"]
        .into_iter()
        .filter(|k| *k != kind)
        .map(|k| serde_json::json!({ "type": k }))
        .collect()
}

fn a_fault_gives_128_and_the_signal(case: &Case) {
    let bundle = case.busybox().args(["/bin/fault"]);
    let program = bundle.rootfs().join("bin/fault");
    fs::write(&program, elf::faults()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    case.run(&bundle).expect(128 + 4);
}

fn a_second_run_may_use_the_id_again(case: &Case) {
    let bundle = case.busybox().shell("echo again");
    assert_eq!(case.run(&bundle).ok(), "again\n");
    assert_eq!(case.run(&bundle).ok(), "again\n");
}
