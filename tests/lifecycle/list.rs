//! `nacre list` and `nacre ps`.

use nacre_tests::Case;
use nacre_tests::Isolation::{Process, Vm};
use serde_json::Value;

nacre_tests::tests![list, an_empty_list, processes, a_table_of_processes];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn list(case: &Case) {
    let bundle = case
        .busybox()
        .annotation("key", "value")
        .args(["sleep", "1000"]);
    let pid = case.detach(&bundle);
    let other = format!("{}-other", case.id());
    let mut command = case.nacre();
    command
        .args(["create", "--bundle"])
        .arg(bundle.write())
        .arg(&other);
    assert_eq!(case.leave(command), 0);

    let quiet = case.command(&["list", "--quiet"]).ok();
    assert_eq!(quiet, format!("{}\n{other}\n", case.id()));
    let list = json(&case.command(&["list", "--format", "json"]).ok());
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    let one = list.iter().find(|entry| entry["id"] == case.id()).unwrap();
    assert_eq!(one["pid"], pid.as_raw());
    assert_eq!(one["status"], "running");
    assert_eq!(one["bundle"], case.directory().to_str().unwrap());
    assert_eq!(one["annotations"]["key"], "value");
    assert!(one["created"].as_str().unwrap().starts_with("20"));
    let table = case.command(&["list"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    for (line, words) in lines.iter().zip([
        ["ID", "PID", "STATUS", "BUNDLE"],
        [case.id(), &pid.to_string(), "running", "/"],
        [&other, "", "created", "/"],
    ]) {
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }

    assert_eq!(case.command(&["delete", &other]).ok(), "");
    case.remove_container();
}

fn an_empty_list(case: &Case) {
    assert_eq!(case.command(&["list", "-q"]).ok(), "");
    let list = json(&case.command(&["list", "-f", "json"]).ok());
    assert!(list.is_null() || list == serde_json::json!([]), "{list}");
}

fn processes(case: &Case) {
    let bundle = case
        .busybox()
        .shell("sleep 1000 & sleep 1000 & echo ready; wait");
    let pid = case.detach(&bundle);
    case.wait_for_output("ready");
    let pids = json(&case.command(&["ps", "--format", "json", case.id()]).ok());
    let pids = pids.as_array().unwrap();
    assert!(pids.contains(&pid.as_raw().into()), "{pids:?}, {pid}");
    // For a VM, the processes on the host: the stand-in, the sandbox process, the file server,
    // the monitor, and QEMU.
    let count = match (case.isolation(), case.is_emulated()) {
        (Process, _) => 3,
        (Vm, false) => 4,
        (Vm, true) => 5,
    };
    assert_eq!(pids.len(), count, "{pids:?}");
    case.remove_container();
}

fn a_table_of_processes(case: &Case) {
    let pid = case.idle();
    for words in [
        ["ps", case.id()].as_slice(),
        &["ps", "--format", "table", case.id()],
        &["ps", case.id(), "-ef"],
        &["ps", case.id(), "-o", "pid,args"],
    ] {
        let table = case.command(words).ok();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2, "{words:?}: {table}");
        assert!(lines[0].contains("PID"), "{table}");
        let has_pid = lines[1].contains(&pid.to_string());
        assert!(has_pid || case.isolation() == Vm, "{table}");
        assert!(lines[1].contains("sleep 1000"), "{table}");
    }
    case.remove_container();
}
