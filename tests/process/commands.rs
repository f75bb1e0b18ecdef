//! The commands and flags that have nothing to do with one container's life.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use nacre_tests::Case;
use nacre_tests::client::which;
use nacre_tests::nacre::binary;
use serde_json::Value;

nacre_tests::tests![
    its_name_can_say_the_isolation,
    an_annotation_or_the_configuration_file_can_say_the_isolation,
    an_annotation_gets_no_less_than_the_name_asks_for,
    features,
    spec_for_an_ordinary_user,
    an_ordinary_users_container,
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
    let nothing = case.directory().join("empty.toml");
    fs::write(&nothing, "").unwrap();
    // Which is another's in a VM, whose kernel numbers its own.
    let namespace = fs::read_link("/proc/self/ns/user").unwrap();
    let bundle = || case.busybox().args(["readlink", "/proc/self/ns/user"]);
    let annotated = bundle().annotation("dev.nacre.isolation", "process");
    for (bundle, configuration) in [(annotated, &nothing), (bundle(), &configuration)] {
        let mut command = case.mark(Command::new(binary("nacre")));
        command.arg("--root").arg(case.state());
        command.arg("--config").arg(configuration);
        command.args(["run", "--bundle"]).arg(bundle.write());
        command.arg(case.id());
        let seen = case.spawn(command).finish().ok();
        assert_eq!(Path::new(seen.trim_end()), namespace);
    }
}

/// As an image's annotation would be that some callers pass on.
fn an_annotation_gets_no_less_than_the_name_asks_for(case: &Case) {
    let name = case.directory().join("nacre-vm");
    symlink(binary("nacre"), &name).unwrap();
    let bundle = case.busybox().args(["true"]);
    let bundle = bundle.annotation("dev.nacre.isolation", "process");
    let bundle = bundle.write();
    let run = |flags: &[&str]| {
        let mut command = case.mark(Command::new(&name));
        command.arg("--root").arg(case.state()).args(flags);
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

fn spec_for_an_ordinary_user(case: &Case) {
    let directory = case.directory().to_str().unwrap();
    case.command(&["spec", "--rootless", "--bundle", directory])
        .ok();
    let text = fs::read(case.directory().join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(
        namespaces
            .iter()
            .any(|namespace| namespace["type"] == "user")
    );
    assert!(
        !namespaces
            .iter()
            .any(|namespace| namespace["type"] == "network")
    );
    assert_eq!(config["linux"]["uidMappings"][0]["containerID"], 0);
    assert_eq!(config["linux"]["gidMappings"][0]["size"], 1);
}

/// `spec --rootless` and `run` by user 1234, who has nothing but a directory.
fn an_ordinary_users_container(case: &Case) {
    const USER: u32 = 1234;
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap();
    if limit.trim() == "0" {
        case.ignore("this host allows no user namespaces");
    }
    if which("setpriv").is_none() {
        case.ignore("no setpriv here (Debian's util-linux has it)");
    }
    let place = |name: &str| case.directory().join(name);
    // Where the program under test is, the user may not be able to go.
    let program = place("nacre-process");
    fs::copy(nacre_tests::nacre::runtime(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let bundle = place("bundle");
    fs::create_dir(&bundle).unwrap();
    nacre_tests::bundle::make_busybox(&bundle.join("rootfs"));
    fs::create_dir(place("users-root")).unwrap();
    own(&bundle, USER);
    own(&place("users-root"), USER);
    let run = |words: &[&str]| {
        let mut command = case.mark(Command::new("setpriv"));
        command
            .args(["--reuid", "1234", "--regid", "1234", "--clear-groups"])
            .arg(&program)
            .arg("--root")
            .arg(place("users-root"))
            .args(words)
            .current_dir(&bundle);
        case.spawn(command).finish()
    };
    run(&["spec", "--rootless"]).ok();
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let script = "id -u; hostname; tr -s ' ' </proc/self/uid_map; echo $$; exit 5";
    config["process"]["args"] = serde_json::json!(["sh", "-c", script]);
    config["process"]["terminal"] = false.into();
    config["root"]["readonly"] = false.into();
    fs::write(&path, config.to_string()).unwrap();
    let outcome = run(&["run", case.id()]);
    let output = outcome.expect(5);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(
        (lines[0], lines[2], lines[3]),
        ("0", " 0 1234 1", "1"),
        "{output}"
    );
    assert_eq!(run(&["list", "--quiet"]).ok(), "");
    assert!(nacre_tests::leftovers::files(&place("users-root")).is_empty());

    // The other commands.
    config["process"]["args"] = serde_json::json!(["sleep", "1000"]);
    fs::write(&path, config.to_string()).unwrap();
    let mut command = case.mark(Command::new("setpriv"));
    command
        .args(["--reuid", "1234", "--regid", "1234", "--clear-groups"])
        .arg(&program)
        .arg("--root")
        .arg(place("users-root"))
        .args(["run", "--detach", case.id()])
        .current_dir(&bundle);
    assert_eq!(case.leave(command), 0, "{}", case.output());
    assert_eq!(run(&["exec", case.id(), "id", "-u"]).ok(), "0\n");
    let state: Value = serde_json::from_str(&run(&["state", case.id()]).ok()).unwrap();
    assert_eq!(state["status"], "running");
    run(&["kill", case.id(), "KILL"]).ok();
    run(&["delete", "--force", case.id()]).ok();
    assert!(nacre_tests::leftovers::files(&place("users-root")).is_empty());
}

fn own(directory: &Path, user: u32) {
    chown(directory, Some(user), Some(user)).unwrap();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => own(&entry.path(), user),
            kind if kind.is_symlink() => {}
            _ => chown(entry.path(), Some(user), Some(user)).unwrap(),
        }
    }
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

/// One that isn't there, and one that can do nothing.
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
        refused("checkpoint", &[case.id()]);
        assert_eq!(case.status(), "running");
        refused("restore", &["--bundle", bundle, &restored]);
        case.remove_container();
        assert_eq!(case.command(&["list", "--quiet"]).ok(), "");
    }
}
