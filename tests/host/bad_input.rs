//! Bad input is refused with one clear line, before anything is made.

use std::fs;
use std::path::Path;

use nacre_tests::{Bundle, Case, Outcome};
use serde_json::{Value, json};

nacre_tests::tests![
    what_isnt_json,
    fields_of_the_wrong_type,
    versions,
    roots,
    processes,
    namespaces,
    resource_limits,
    mounts,
    ids,
    sizes_of_the_vm,
    isolation,
    what_isnt_supported_is_named,
    bundles,
    configuration_files,
];

/// Runs a bundle that must be refused with a message that contains all of these words.
#[track_caller]
fn refused(case: &Case, bundle: &Bundle, words: &[&str]) {
    let message = case.run(bundle).refused(1);
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
}

/// Does the same with a value in `config.json`.
#[track_caller]
fn refused_value(case: &Case, pointer: &str, value: impl Into<Value>, words: &[&str]) {
    refused(case, &case.busybox().set(pointer, value), words);
}

/// Runs a bundle directory as it is.
fn run_directory(case: &Case, directory: &Path) -> Outcome {
    let mut command = case.nacre();
    command
        .args(["run", "--bundle"])
        .arg(directory)
        .arg(case.id());
    case.spawn(command).finish()
}

fn what_isnt_json(case: &Case) {
    let bundle = case.busybox();
    let good = fs::read(bundle.write().join("config.json")).unwrap();
    let deep = "[".repeat(100_000);
    let mut trailing = good.clone();
    trailing.extend(b"}");
    let mut latin = good.clone();
    latin[good.len() / 2] = 0xe4;
    let texts: [&[u8]; 8] = [
        b"",
        b"{",
        b"[]",
        b"null",
        deep.as_bytes(),
        &good[..good.len() - 10],
        &trailing,
        &latin,
    ];
    for text in texts {
        fs::write(bundle.directory().join("config.json"), text).unwrap();
        let message = run_directory(case, bundle.directory()).refused(1);
        assert!(message.contains("config.json"), "{message}");
    }
}

fn fields_of_the_wrong_type(case: &Case) {
    for (pointer, value, word) in [
        ("/process", json!(3), "process"),
        ("/process/args", json!("sh"), "process.args"),
        ("/process/args", json!(["sh", 1]), "process.args"),
        ("/process/user/uid", json!(-1), "process.user.uid"),
        ("/process/user/uid", json!(1_u64 << 32), "process.user.uid"),
        ("/mounts", json!({}), "mounts"),
        (
            "/linux/resources/memory/limit",
            json!("64M"),
            "linux.resources.memory.limit",
        ),
        ("/linux/sysctl", json!({ "kernel.x": 1 }), "linux.sysctl"),
    ] {
        refused_value(case, pointer, value, &[word]);
    }
}

fn versions(case: &Case) {
    for version in ["2.0.0", "0.9.0", "9", "", "one", "1.0.2.3.4"] {
        refused_value(case, "/ociVersion", version, &["ociVersion", version]);
    }
    refused(case, &case.busybox().remove("/ociVersion"), &["ociVersion"]);
}

fn roots(case: &Case) {
    let file = case.directory().join("file");
    fs::write(&file, "").unwrap();
    refused_value(case, "/root/path", "nonesuch", &["root", "nonesuch"]);
    refused_value(
        case,
        "/root/path",
        file.to_str().unwrap(),
        &["root", "directory"],
    );
    refused_value(case, "/root/path", "", &["root"]);
    refused(case, &case.busybox().remove("/root"), &["root"]);
}

fn processes(case: &Case) {
    refused_value(case, "/process/args", json!([]), &["process.args"]);
    refused_value(case, "/process/args", json!(["a\0b"]), &["process.args"]);
    refused(
        case,
        &case.busybox().remove("/process/args"),
        &["process.args"],
    );
    refused(case, &case.busybox().remove("/process"), &["process"]);
    refused_value(case, "/process/cwd", "tmp", &["process.cwd", "tmp"]);
    refused_value(case, "/process/cwd", "", &["process.cwd"]);
    refused_value(case, "/process/env", json!(["A\0=1"]), &["process.env"]);
    refused_value(case, "/process/oomScoreAdj", 1001, &["process.oomScoreAdj"]);
}

fn namespaces(case: &Case) {
    let pointer = "/linux/namespaces";
    refused_value(
        case,
        pointer,
        json!([{ "type": "nonesuch" }]),
        &["nonesuch"],
    );
    refused_value(
        case,
        pointer,
        json!([{ "type": "uts" }, { "type": "mount" }, { "type": "uts" }]),
        &["uts"],
    );
    // There is a host name without a namespace for it.
    refused_value(case, pointer, json!([{ "type": "mount" }]), &["hostname"]);
}

fn resource_limits(case: &Case) {
    let pointer = "/process/rlimits";
    let limit =
        |kind: &str, soft: u64, hard: u64| json!([{ "type": kind, "soft": soft, "hard": hard }]);
    refused_value(
        case,
        pointer,
        limit("RLIMIT_NONESUCH", 1, 1),
        &["RLIMIT_NONESUCH"],
    );
    refused_value(
        case,
        pointer,
        limit("RLIMIT_NOFILE", 2, 1),
        &["RLIMIT_NOFILE"],
    );
    let twice = json!([
        { "type": "RLIMIT_CORE", "soft": 1, "hard": 1 },
        { "type": "RLIMIT_CORE", "soft": 2, "hard": 2 },
    ]);
    refused_value(case, pointer, twice, &["RLIMIT_CORE"]);
}

fn mounts(case: &Case) {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        case.busybox().mount(destination, kind, source, options)
    };
    refused(
        case,
        &mount("/x", "bind", "/no/such/source", &["bind"]),
        &["/no/such/source"],
    );
    let bundle = case
        .busybox()
        .push("/mounts", json!({ "type": "tmpfs", "source": "tmpfs" }));
    refused(case, &bundle, &["destination"]);
}

fn ids(case: &Case) {
    let bundle = case.busybox();
    bundle.write();
    let long = "x".repeat(5000);
    for id in [
        "", ".", "..", "/", "a/b", "../a", "/etc", "a b", "a\nb", "ä", &long,
    ] {
        let mut command = case.nacre();
        command.args(["run", "--bundle"]).arg(bundle.directory());
        command.args(["--", id]);
        let message = case.spawn(command).finish().refused(1);
        assert!(message.contains("id"), "{id:?}: {message}");
        assert!(message.len() < 1000, "a long message: {message}");
    }
}

fn sizes_of_the_vm(case: &Case) {
    for memory in ["8M", "0", "-1", "much", "", "99999999999G", "64MM"] {
        let bundle = case.busybox().annotation("dev.nacre.vm.memory", memory);
        refused(case, &bundle, &["memory"]);
    }
    for cpus in ["0", "-1", "1000", "99999999999", "two", "", "1.5"] {
        let bundle = case.busybox().annotation("dev.nacre.vm.cpus", cpus);
        refused(case, &bundle, &["cpus"]);
    }
}

fn isolation(case: &Case) {
    let bundle = case.busybox().annotation("dev.nacre.isolation", "none");
    refused(case, &bundle, &["isolation", "none"]);
}

fn what_isnt_supported_is_named(case: &Case) {
    for (pointer, value, words) in [
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/listener" }),
            ["linux.seccomp.listenerPath"],
        ),
        (
            "/hooks",
            json!({ "createContainer": [{ "path": "/bin/sh" }] }),
            ["hooks.createContainer[0].path"],
        ),
        (
            "/linux/uidMappings",
            json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]),
            ["uidMappings"],
        ),
        (
            "/linux/intelRdt",
            json!({ "closID": "x" }),
            ["linux.intelRdt"],
        ),
    ] {
        refused_value(case, pointer, value, &words);
    }
}

fn bundles(case: &Case) {
    let nowhere = case.directory().join("nowhere");
    let message = run_directory(case, &nowhere).refused(1);
    assert!(message.contains(nowhere.to_str().unwrap()), "{message}");

    let empty = case.directory().join("empty");
    fs::create_dir(&empty).unwrap();
    let message = run_directory(case, &empty).refused(1);
    assert!(message.contains("config.json"), "{message}");

    fs::create_dir(empty.join("config.json")).unwrap();
    let message = run_directory(case, &empty).refused(1);
    assert!(message.contains("config.json"), "{message}");
}

fn configuration_files(case: &Case) {
    let bundle = case.busybox();
    bundle.write();
    let path = case.directory().join("bad.toml");
    for (text, word) in [
        ("[vm\n", "bad.toml"),
        ("[vm]\nspeed = 3\n", "speed"),
        ("isolation = \"none\"\n", "none"),
        ("[vm]\nmemory = \"little\"\n", "little"),
        ("[vm]\ncpus = 0\n", "cpus"),
    ] {
        fs::write(&path, text).unwrap();
        let message = run_with(case, &bundle, &path).refused(1);
        assert!(message.contains(word), "{message}");
    }
    fs::remove_file(&path).unwrap();
    let message = run_with(case, &bundle, &path).refused(1);
    assert!(message.contains("bad.toml"), "a missing file: {message}");
}

fn run_with(case: &Case, bundle: &Bundle, configuration: &Path) -> Outcome {
    let mut command = case.nacre_with(configuration);
    command
        .args(["run", "--bundle"])
        .arg(bundle.directory())
        .arg(case.id());
    case.spawn(command).finish()
}
