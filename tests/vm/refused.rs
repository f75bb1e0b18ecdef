//! What docs/vm-differences.md lists as refused in a VM is refused by name, and leaves the
//! container as it was.

use std::process::Command;

use nacre_tests::Case;

nacre_tests::tests![
    checkpoint_and_restore,
    what_a_paused_vm_would_have_to_answer,
    memory_policy,
    too_few_open_files,
];

fn checkpoint_and_restore(case: &Case) {
    case.idle();
    let image = case.directory().join("image");
    let flags = ["--image-path", image.to_str().unwrap()];
    let checkpoint = [&["checkpoint"], &flags[..], &[case.id()]].concat();
    let message = case.command(&checkpoint).refused(1);
    assert!(message.contains("nacre checkpoint"), "{message}");
    assert!(message.contains("--isolation=vm"), "{message}");
    assert_eq!(case.status(), "running");
    case.remove_container();

    let bundle = ["--bundle", case.directory().to_str().unwrap()];
    let restore = [&["restore"], &flags[..], &bundle, &[case.id()]].concat();
    let message = case.command(&restore).refused(1);
    assert!(message.contains("nacre restore"), "{message}");
    assert!(message.contains("--isolation=vm"), "{message}");
    assert!(!image.exists());
    assert_eq!(case.command(&["list", "--quiet"]).ok(), "");
}

fn what_a_paused_vm_would_have_to_answer(case: &Case) {
    case.idle();
    case.command(&["pause", case.id()]).ok();
    for words in [
        &["ps", case.id()][..],
        &["events", "--stats", case.id()],
        &["update", "--pids-limit", "50", case.id()],
    ] {
        let message = case.command(words).refused(1);
        assert!(message.contains("paused"), "{words:?}: {message}");
        assert_eq!(case.status(), "paused");
    }
    case.command(&["resume", case.id()]).ok();
    let table = case.command(&["ps", case.id()]).ok();
    assert!(table.contains("sleep 1000"), "{table}");
    case.remove_container();
}

fn memory_policy(case: &Case) {
    let policy = serde_json::json!({ "mode": "MPOL_BIND", "nodes": "0" });
    let bundle = case.busybox().set("/linux/memoryPolicy", policy);
    let message = case.run(&bundle).refused(1);
    assert!(message.contains("linux.memoryPolicy: a VM"), "{message}");
}

/// The caller can't have more of them.
fn too_few_open_files(case: &Case) {
    let bundle = case.busybox().args(["true"]);
    let nacre = case.nacre();
    let mut command = case.mark(Command::new("setpriv"));
    command
        .args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"])
        .args(["prlimit", "--nofile=300:300"])
        .arg(nacre.get_program())
        .args(nacre.get_args())
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let message = case.spawn(command).finish().refused(1);
    let says = "RLIMIT_NOFILE lets this process have 300 open files, and a machine needs 3072";
    assert!(message.contains(says), "{message}");
}
