//! Failures that show only while a container is created or started.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nacre_tests::nacre::is_reference;
use nacre_tests::{Case, Isolation};
use serde_json::json;

nacre_tests::tests![
    a_program_that_isnt_there,
    a_program_that_cant_be_executed,
    an_id_in_use,
    a_memory_limit_too_small_to_start,
];

fn a_program_that_isnt_there(case: &Case) {
    let message = case.run(&case.busybox().args(["nonesuch"])).refused(127);
    assert!(
        message.contains("exec: \"nonesuch\": executable file not found in $PATH"),
        "{message}"
    );
    let message = case.run(&case.busybox().args(["/no/such"])).refused(127);
    let is_said = |words| message.contains(words);
    assert!(
        is_said("exec: \"/no/such\": no such file or directory")
            || is_reference() && is_said("no such file or directory"),
        "{message}"
    );
}

fn a_program_that_cant_be_executed(case: &Case) {
    for (program, why) in [
        ("/etc/passwd", "permission denied"),
        ("/etc", "permission denied"),
    ] {
        let message = case.run(&case.busybox().args([program])).refused(126);
        assert!(
            message.contains(&format!("exec: \"{program}\": {why}")),
            "{message}"
        );
    }
    let bundle = case.busybox().args(["/bin/garbage"]);
    let program = bundle.rootfs().join("bin/garbage");
    fs::write(&program, "no program\0at all").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let outcome = case.run(&bundle);
    assert!(
        is_reference() || outcome.status() == Some(126),
        "{outcome:?}"
    );
    assert_eq!(outcome.stderr, "exec /bin/garbage: exec format error\n");
}

fn an_id_in_use(case: &Case) {
    let bundle = case.busybox().shell("echo ready; cat");
    let mut first = case.start(&bundle);
    first.wait_for_line("ready");
    let before = fs::read_dir(case.state()).unwrap().count();
    let message = case.run(&bundle).refused(1);
    assert!(message.contains(case.id()), "{message}");
    assert!(
        message.contains("in use") || message.contains("exists"),
        "{message}"
    );
    // The first container is unaffected.
    assert_eq!(fs::read_dir(case.state()).unwrap().count(), before);
    first.finish().expect(0);
}

fn a_memory_limit_too_small_to_start(case: &Case) {
    let bundle = case
        .busybox()
        .set("/linux/resources/memory", json!({ "limit": 128 << 10 }));
    let outcome = case.run(&bundle);
    if case.isolation() == Isolation::Process {
        // It is killed by the limit, or refused by the engine, which then says why.
        assert!(matches!(outcome.status(), Some(1 | 137)), "{outcome:?}");
        return;
    }
    outcome.expect(137);
    assert!(outcome.log.contains("memory limit"), "{}", outcome.log);
}
