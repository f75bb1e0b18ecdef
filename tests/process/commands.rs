//! The commands and flags that don't concern a single container's life.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nacre_tests::Case;
use nacre_tests::nacre::binary;
use serde_json::Value;

nacre_tests::tests![
    its_name_can_say_the_isolation,
    an_annotation_or_the_configuration_file_can_say_the_isolation,
    an_annotation_gets_no_less_than_a_vm,
    features,
    no_console_of_the_hosts_kernel,
    cgroups_of_systemd,
    no_checkpoint_or_restore_without_criu,
];

fn its_name_can_say_the_isolation(case: &Case) {
    let bundle = case.busybox().args(["echo", "on the host's kernel"]);
    let mut command = case.mark(Command::new(case.binary()));
    command
        .arg("--root")
        .arg(case.state())
        .args(["run", "--bundle"]);
    command.arg(bundle.write()).arg(case.id());
    assert_eq!(case.spawn(command).finish().ok(), "on the host's kernel\n");
}

fn an_annotation_or_the_configuration_file_can_say_the_isolation(case: &Case) {
    let configuration = case.directory().join("process.toml");
    fs::write(&configuration, "isolation = \"process\"\n").unwrap();
    let allowed = case.directory().join("allowed.toml");
    fs::write(&allowed, "annotation-may-lower-isolation = true\n").unwrap();
    // In a VM the namespace would have another number, given by the guest's kernel.
    let namespace = fs::read_link("/proc/self/ns/user").unwrap();
    let bundle = || case.busybox().args(["readlink", "/proc/self/ns/user"]);
    let annotated = bundle().annotation("dev.nacre.isolation", "process");
    for (bundle, configuration) in [(annotated, &allowed), (bundle(), &configuration)] {
        let mut command = case.mark(Command::new(binary("nacre")));
        command.arg("--root").arg(case.state());
        command.arg("--config").arg(configuration);
        command.args(["run", "--bundle"]).arg(bundle.write());
        command.arg(case.id());
        let seen = case.spawn(command).finish().ok();
        assert_eq!(Path::new(seen.trim_end()), namespace);
    }
}

/// The annotation stands for one of an image that some callers pass on.
fn an_annotation_gets_no_less_than_a_vm(case: &Case) {
    let vm = case.directory().join("nacre-vm");
    symlink(binary("nacre"), &vm).unwrap();
    let nothing = case.directory().join("empty.toml");
    fs::write(&nothing, "").unwrap();
    let bundle = case.busybox().args(["true"]);
    let bundle = bundle.annotation("dev.nacre.isolation", "process");
    let bundle = bundle.write();
    for name in [&vm, &binary("nacre")] {
        let run = |flags: &[&str]| {
            let mut command = case.mark(Command::new(name));
            command.arg("--root").arg(case.state()).args(flags);
            command.arg("--config").arg(&nothing);
            command.args(["run", "--bundle"]).arg(bundle);
            command.arg(case.id());
            case.spawn(command).finish()
        };
        let refused = run(&[]);
        refused.expect(1);
        let error = refused.stderr;
        assert!(error.contains("annotations.dev.nacre.isolation"), "{error}");
        run(&["--isolation=process"]).ok();
    }
}

fn features(case: &Case) {
    let features: Value = serde_json::from_str(&case.command(&["features"]).ok()).unwrap();
    let list = |pointer: &str| {
        let list = features.pointer(pointer).and_then(Value::as_array);
        let list = list.unwrap_or_else(|| panic!("no list {pointer} in {features:#}"));
        list.iter()
            .map(|entry| entry.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let has = |pointer: &str, names: &[&str]| {
        let list = list(pointer);
        for name in names {
            assert!(
                list.iter().any(|entry| entry == name),
                "no {name} in {pointer}"
            );
        }
    };
    has(
        "/hooks",
        &[
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ],
    );
    has(
        "/mountOptions",
        &["rbind", "rro", "rnosuid", "tmpcopyup", "relatime", "shared"],
    );
    has(
        "/linux/namespaces",
        &["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
    );
    has("/linux/capabilities", &["CAP_CHOWN", "CAP_SYS_ADMIN"]);
    has(
        "/linux/seccomp/actions",
        &["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"],
    );
    has(
        "/linux/seccomp/operators",
        &["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"],
    );
    has("/linux/seccomp/archs", &["SCMP_ARCH_X86_64"]);
    for pointer in [
        "/linux/cgroup/v1",
        "/linux/cgroup/v2",
        "/linux/seccomp/enabled",
    ] {
        assert_eq!(features.pointer(pointer), Some(&true.into()), "{pointer}");
    }
}

fn no_console_of_the_hosts_kernel(case: &Case) {
    let mut running = case.start(&case.busybox().shell("echo ready; read -r _"));
    running.wait_for_line("ready");
    let said = case.command(&["console", case.id()]).refused(1);
    assert!(said.contains("no kernel of its own"), "{said}");
    drop(running.stdin.take());
    running.finish();
}

fn cgroups_of_systemd(case: &Case) {
    if Path::new("/run/systemd/system").exists() {
        case.ignore("systemd runs here");
    }
    let mut command = case.nacre();
    command.args(["--systemd-cgroup", "run", "--bundle"]);
    command.arg(case.busybox().write()).arg(case.id());
    let outcome = case.spawn(command).finish();
    outcome.refused_somehow();
    assert!(outcome.stderr.contains("systemd"), "{}", outcome.stderr);
}

/// First a CRIU that isn't there, then one that doesn't work.
fn no_checkpoint_or_restore_without_criu(case: &Case) {
    let image = case.directory().join("image");
    let bundle = case.directory().to_str().unwrap();
    let restored = format!("{}-restored", case.id());
    for criu in ["/no/such/criu", "/bin/false"] {
        case.idle();
        let refused = |command, rest: &[&str]| {
            let words = ["--criu", criu, command, "--image-path"];
            let words = [&words[..], &[image.to_str().unwrap()], rest].concat();
            let outcome = case.command(&words);
            outcome.refused_somehow();
            assert!(outcome.stderr.contains("CRIU"), "{}", outcome.stderr);
        };
        let work = image.join("work");
        refused(
            "checkpoint",
            &["--work-path", work.to_str().unwrap(), case.id()],
        );
        assert!(work.is_dir());
        for parent in ["/tmp", "missing"] {
            let words = ["checkpoint", "--image-path", image.to_str().unwrap()];
            let words = [&words[..], &["--parent-path", parent, case.id()]].concat();
            let message = case.command(&words).refused(1);
            assert!(message.contains("--parent-path"), "{message}");
        }
        assert_eq!(case.status(), "running");
        refused("restore", &["--bundle", bundle, &restored]);
        case.remove_container();
        assert_eq!(case.command(&["list", "--quiet"]).ok(), "");
    }
}
