//! `nacre events`: a container's usage, and that it ran out of memory.

use std::io::{BufRead, BufReader};

use nacre_tests::Case;
use nix::sys::signal::Signal;
use serde_json::Value;

nacre_tests::tests![
    statistics_once,
    statistics_again_and_again,
    out_of_memory,
    of_a_container_that_isnt_running,
];

fn number(stats: &Value, pointer: &str) -> u64 {
    stats
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no number {pointer} in {stats:#}"))
}

fn statistics_once(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/resources/memory",
            serde_json::json!({ "limit": 134_217_728 }),
        )
        .set("/linux/resources/pids", serde_json::json!({ "limit": 20 }))
        .shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000 & echo ready; wait");
    case.detach(&bundle);
    case.wait_for_output("ready");
    let output = case.command(&["events", "--stats", case.id()]).ok();
    assert_eq!(output.lines().count(), 1, "{output}");
    let stats: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(stats["type"], "stats");
    assert_eq!(stats["id"], case.id());
    assert!(
        number(&stats, "/data/cpu/usage/total") > 1_000_000,
        "{stats:#}"
    );
    assert_eq!(number(&stats, "/data/pids/current"), 2);
    assert_eq!(number(&stats, "/data/pids/limit"), 20);
    let used = number(&stats, "/data/memory/usage/usage");
    assert!((100_000..134_217_728).contains(&used), "{stats:#}");
    assert_eq!(number(&stats, "/data/memory/usage/limit"), 134_217_728);
    case.remove_container();
}

fn statistics_again_and_again(case: &Case) {
    case.idle();
    let mut command = case.nacre();
    command.args(["events", "--interval", "100ms", case.id()]);
    let mut running = case.spawn(command);
    let lines = BufReader::new(running.stdout.take().unwrap())
        .lines()
        .take(3);
    for line in lines {
        let stats: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(stats["type"], "stats");
    }
    running.signal(Signal::SIGTERM);
    running.finish();
    case.remove_container();
}

fn out_of_memory(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/resources/memory",
            serde_json::json!({ "limit": 33_554_432, "swap": 33_554_432 }),
        )
        .shell(
            "trap 'dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null; echo $?' USR1
             echo ready; while :; do sleep 0.05; done",
        );
    case.detach(&bundle);
    case.wait_for_output("ready");
    let mut command = case.nacre();
    command.args(["events", "--interval", "100ms", case.id()]);
    let mut running = case.spawn(command);
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    // It watches once it has printed something.
    lines.next().unwrap().unwrap();
    case.command(&["kill", case.id(), "USR1"]).ok();
    case.wait_for_output("137");
    let event = lines
        .by_ref()
        .take(100)
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .find(|event| event["type"] == "oom")
        .expect("an event of type oom");
    assert_eq!(event["id"], case.id());
    // The events end with the container.
    case.remove_container();
    for line in lines {
        line.unwrap();
    }
    running.finish().expect(0);
}

fn of_a_container_that_isnt_running(case: &Case) {
    case.detach(&case.busybox().args(["true"]));
    case.wait_for_status("stopped");
    case.command(&["events", "--stats", case.id()]).refused(1);
    case.remove_container();
}
