//! The commands beside `run`.

use nacre_tests::Case;
use serde_json::Value;

nacre_tests::tests![
    version,
    spec_is_a_config_that_is_accepted,
    spec_doesnt_overwrite,
    features,
    doctor,
];

fn version(case: &Case) {
    for flag in ["--version", "-v"] {
        let output = case.command(&[flag]).ok();
        let first = output.lines().next().unwrap();
        assert!(first.contains(env!("CARGO_PKG_VERSION")), "{output}");
        assert!(first.starts_with("nacre"), "{output}");
    }
}

fn spec_is_a_config_that_is_accepted(case: &Case) {
    let mut command = case.nacre();
    command.args(["spec", "--bundle"]).arg(case.directory());
    assert_eq!(case.spawn(command).finish().ok(), "");
    let text = std::fs::read(case.directory().join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(config["root"]["path"], "rootfs");
    assert!(config["ociVersion"].as_str().unwrap().starts_with("1."));
    // Only the missing root is reported.
    let mut command = case.nacre();
    command
        .args(["run", "--bundle"])
        .arg(case.directory())
        .arg(case.id());
    let message = case.spawn(command).finish().refused(1);
    assert!(message.contains("rootfs"), "{message}");
}

fn spec_doesnt_overwrite(case: &Case) {
    let path = case.directory().join("config.json");
    std::fs::write(&path, "mine").unwrap();
    let mut command = case.nacre();
    command.args(["spec", "--bundle"]).arg(case.directory());
    let message = case.spawn(command).finish().refused(1);
    assert!(message.contains("config.json"), "{message}");
    assert_eq!(std::fs::read(path).unwrap(), b"mine");
}

fn features(case: &Case) {
    let mut command = case.nacre();
    command.arg("features");
    let output = case.spawn(command).finish().ok();
    let features: Value = serde_json::from_str(&output).unwrap();
    let has = |pointer: &str, name: &str| {
        let list = features.pointer(pointer).and_then(Value::as_array);
        let list = list.unwrap_or_else(|| panic!("{pointer} in {output}"));
        assert!(
            list.iter().any(|v| v == name),
            "{name} in {pointer}: {output}"
        );
    };
    assert!(features["ociVersionMin"].is_string(), "{output}");
    assert!(features["ociVersionMax"].is_string(), "{output}");
    for name in ["rbind", "ro", "noexec"] {
        has("/mountOptions", name);
    }
    for name in ["pid", "network", "cgroup"] {
        has("/linux/namespaces", name);
    }
    has("/linux/capabilities", "CAP_SYS_ADMIN");
    assert_eq!(
        features.pointer("/linux/cgroup/v2"),
        Some(&true.into()),
        "{output}"
    );
}

fn doctor(case: &Case) {
    let mut command = case.nacre();
    command.args(["doctor", "--format", "json"]);
    let outcome = case.spawn(command).finish();
    let text = outcome.text();
    let findings: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let vm = &findings["isolation"]["vm"];
    let list = vm["findings"].as_array().unwrap();
    let kvm = list
        .iter()
        .find(|finding| finding["name"].as_str().unwrap().starts_with("kvm"));
    let works = kvm.unwrap_or_else(|| panic!("{text}"))["level"] == "ok";
    assert_eq!(works, nacre_vmm::kvm::check().is_ok(), "{text}");
    // It must agree with the findings, of which one error is enough.
    let possible = list.iter().all(|finding| finding["level"] != "error");
    assert_eq!(vm["possible"], possible, "{text}");
    let status = if possible { 0 } else { 1 };
    assert_eq!(
        (&findings["chosen"], outcome.status()),
        (&"vm".into(), Some(status))
    );
    // The same in text for people.
    let mut command = case.nacre();
    command.arg("doctor");
    let outcome = case.spawn(command).finish();
    let text = outcome.expect(status);
    let can = if possible { "can" } else { "can't" };
    let first = format!("isolation vm (chosen): {can} be had\n");
    assert!(text.starts_with(&first), "{text}");
    assert!(text.contains("/dev/kvm"), "{text}");
}
