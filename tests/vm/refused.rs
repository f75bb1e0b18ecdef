//! What README's table says is refused in a VM, by name, and leaves the container as it was.

use nacre_tests::Case;

nacre_tests::tests![
    checkpoint_and_restore,
    what_a_paused_vm_would_have_to_answer,
    memory_policy,
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
