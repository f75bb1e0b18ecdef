//! The descriptors that a created container's first process has open when nothing is left to do but
//! to look up what the image names, and to exec it (CVE-2024-21626 and the like).

use std::fs;

use nacre_tests::console::ConsoleSocket;
use nacre_tests::descriptors::unasked;
use nacre_tests::{Bundle, Case};
use nix::unistd::Pid;
use serde_json::json;

use super::flags::with_descriptor_3;
use super::users;

nacre_tests::tests![
    nothing_but_what_is_asked_for: Process,
    with_a_descriptor_that_is_preserved: Process,
    with_a_terminal: Process,
];

#[track_caller]
fn assert_nothing_unasked(case: &Case, bundle: &Bundle) {
    let pid = case.create(bundle);
    let found = unasked(pid, 0);
    assert!(found.is_empty(), "{found:?}");
    case.command(&["start", case.id()]).ok();
    case.remove_container();
}

fn pid(case: &Case) -> Pid {
    let pid = case.inspect()["pid"].as_i64().unwrap();
    Pid::from_raw(pid as i32)
}

fn nothing_but_what_is_asked_for(case: &Case) {
    let sleeping = || case.busybox().args(["sleep", "1000"]);
    assert_nothing_unasked(case, &sleeping());
    assert_nothing_unasked(case, &users::mapped(case).args(["sleep", "1000"]));
    let hook = json!([{ "path": "/bin/true" }]);
    let hooks = json!({ "createRuntime": hook, "createContainer": hook, "startContainer": hook });
    assert_nothing_unasked(case, &sleeping().set("/hooks", hooks));
    for no_new_privileges in [true, false] {
        let bundle = sleeping()
            .set("/process/noNewPrivileges", no_new_privileges)
            .set(
                "/linux/seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW" }),
            );
        assert_nothing_unasked(case, &bundle);
    }
}

fn with_a_descriptor_that_is_preserved(case: &Case) {
    let path = case.directory().join("preserved");
    fs::write(&path, "").unwrap();
    let file = fs::File::open(&path).unwrap();
    let bundle = case.busybox().args(["sleep", "1000"]);
    let mut command = case.nacre();
    command.args(["create", "--preserve-fds", "1", "--bundle"]);
    command.arg(bundle.write()).arg(case.id());
    assert_eq!(case.leave(with_descriptor_3(command, &file)), 0);
    let found = unasked(pid(case), 1);
    assert!(found.is_empty(), "{found:?}");
    case.remove_container();
}

fn with_a_terminal(case: &Case) {
    let bundle = case.busybox().set("/process/terminal", true);
    let bundle = bundle.args(["sleep", "1000"]);
    let socket = ConsoleSocket::listen(case.directory());
    let mut command = case.nacre();
    command.args(["create", "--bundle"]).arg(bundle.write());
    command.arg("--console-socket").arg(socket.path());
    command.arg(case.id());
    let running = case.spawn(command);
    let _terminal = socket.receive();
    assert_eq!(running.finish().ok(), "");
    let found = unasked(pid(case), 0);
    assert!(found.is_empty(), "{found:?}");
    case.remove_container();
}
