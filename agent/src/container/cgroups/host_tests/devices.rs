//! Which devices may be used.

use super::super::devices::Access;
use super::*;

#[test]
#[ignore = "needs root, and cgroups"]
fn the_kernel_enforces_the_device_rules() {
    host();
    let resources = resources(
        r#"{"devices": [{"allow": false},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "w"}]}"#,
    );
    let cgroup = make("devices", Some(&resources));
    let node = tempfile::tempdir().unwrap();
    let node = node.path().join("node");
    let node = node.display();
    assert!(run(&cgroup, ": < /dev/null"));
    assert!(run(&cgroup, ": > /dev/zero"));
    // Making any node is allowed, opening this one is not.
    if run(&cgroup, &format!("mknod {node} c 1 1")) {
        assert!(!run(&cgroup, &format!(": < {node}")));
    }
    if Path::new("/dev/kmsg").exists() {
        assert!(run(&cgroup, ": > /dev/kmsg"));
        assert!(!run(&cgroup, ": < /dev/kmsg"));
    }
    cgroup.remove().unwrap();
}

#[test]
#[ignore = "needs root, and cgroups"]
fn the_program_for_device_rules_is_accepted_and_enforced() {
    let layout = host();
    let Some(mount) = &layout.v2 else {
        panic!("skipped: no cgroup version 2 here");
    };
    let directory = v2::make(mount, name("rules").strip_prefix("/").unwrap()).unwrap();
    let rules: Vec<String> = (0..256)
        .map(|i| {
            let (major, minor) = (i % 37, i);
            let kind = ["b", "c"][i % 2];
            format!(
                r#"{{"allow": {}, "type": "{kind}", "major": {major}, "minor": {minor}, "access": "rw"}}"#,
                i % 3 == 0
            )
        })
        .collect();
    let resources = resources(&format!(r#"{{"devices": [{}]}}"#, rules.join(",")));
    let access = Access::parse(&resources).unwrap();
    v2::devices::attach(&directory.path, &access).unwrap();
    let cgroup = Cgroup {
        v2: Some(directory),
        v1: Vec::new(),
        unit: None,
    };
    assert!(run(&cgroup, ": < /dev/null"));
    if Path::new("/dev/kmsg").exists() {
        assert!(!run(&cgroup, ": < /dev/kmsg"));
    }
    cgroup.remove().unwrap();
}

#[test]
#[ignore = "needs root, and cgroups"]
fn device_rules_can_be_replaced() {
    let layout = host();
    let rules = |allow: bool| {
        resources(&format!(
            r#"{{"devices": [{{"allow": false}},
                {{"allow": {allow}, "type": "c", "major": 1, "minor": 11}}]}}"#
        ))
    };
    if !Path::new("/dev/kmsg").exists() {
        panic!("skipped: there is no /dev/kmsg");
    }
    let check = |cgroup: OfTest| {
        assert!(!run(&cgroup, ": < /dev/kmsg"));
        cgroup.update(&rules(true)).unwrap();
        assert!(run(&cgroup, ": < /dev/kmsg"));
        // An empty list changes nothing.
        cgroup.update(&resources(r#"{"devices": []}"#)).unwrap();
        assert!(run(&cgroup, ": < /dev/kmsg"));
        cgroup.update(&rules(false)).unwrap();
        assert!(!run(&cgroup, ": < /dev/kmsg"));
        assert!(run(&cgroup, ": < /dev/null"));
        cgroup.remove().unwrap();
    };
    check(make("replace", Some(&rules(false))));
    // With version 2, on a hybrid host too.
    if let Some(mount) = &layout.v2 {
        let directory = v2::make(mount, name("replace2").strip_prefix("/").unwrap()).unwrap();
        v2::devices::attach(&directory.path, &Access::parse(&rules(false)).unwrap()).unwrap();
        check(OfTest(Cgroup {
            v2: Some(directory),
            v1: Vec::new(),
            unit: None,
        }));
    }
}
