//! `nacre top`: what containers cost the host.

use nacre_tests::{Case, Isolation};

nacre_tests::tests![a_busy_container_is_seen_with_its_cost];

fn a_busy_container_is_seen_with_its_cost(case: &Case) {
    let none = case.command(&["top", "--interval", "10ms"]).ok();
    assert!(
        none.starts_with("ID ") && none.lines().count() == 1,
        "{none}"
    );
    let mut running = case.start(&case.busybox().shell("echo ready; while :; do :; done"));
    running.wait_for_line("ready");
    let table = case
        .command(&["top", "--interval", "1s", "--sort", "memory"])
        .ok();
    let row = table.lines().nth(1).unwrap();
    let (isolation, given) = match case.isolation() {
        Isolation::Vm => ("vm", " CPUs, "),
        Isolation::Process => ("process", " -"),
    };
    for expected in [case.id(), isolation, "running", " % ", given] {
        assert!(row.contains(expected), "no {expected} in {table}");
    }
    // The host may be busy, but the loop gets something.
    let share = row
        .split(" %")
        .next()
        .unwrap()
        .split(' ')
        .next_back()
        .unwrap();
    assert!(share.parse::<f64>().unwrap() > 1.0, "{table}");
    case.command(&["kill", case.id(), "KILL"]).ok();
    running.finish().expect(137);
}
