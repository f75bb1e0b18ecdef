//! Tests that need no cgroup of this machine.

use std::fs;

use oci_spec::runtime::LinuxResources;

use super::directory::Directory;
use super::resources::{Settings, Versions};
use super::*;

pub(super) fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

#[test]
fn what_cant_be_honoured_is_refused_by_name() {
    let v1 = |resources: &LinuxResources| {
        Settings::new(resources, &Versions::V1)?;
        Ok(())
    };
    type Check<'a> = &'a dyn Fn(&LinuxResources) -> Result<(), CgroupError>;
    let cases: &[(Check<'_>, &str, &str)] = &[
        (
            &Cgroup::validate_for_v2,
            r#"{"network": {"classID": 5}}"#,
            "network.classID ",
        ),
        (
            &Cgroup::validate_for_v2,
            r#"{"network": {"priorities": [{"name": "eth0", "priority": 1}]}}"#,
            "network.priorities ",
        ),
        (&v1, r#"{"unified": {"memory.high": "1"}}"#, "unified "),
        (
            &Cgroup::validate,
            r#"{"memory": {"limit": -5}}"#,
            "memory.limit",
        ),
        (
            &Cgroup::validate,
            r#"{"memory": {"useHierarchy": false}}"#,
            "memory.useHierarchy",
        ),
        (
            &Cgroup::validate,
            r#"{"devices": [{"allow": true, "access": "z"}]}"#,
            "devices[0].access",
        ),
    ];
    for (check, json, field) in cases {
        let error = check(&resources(json)).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("linux.resources.{field}")),
            "{json}: {error}"
        );
    }
    // What callers write without meaning anything by it.
    let json = r#"{"network": {"classID": 0, "priorities": []}, "rdma": {}, "unified": {}}"#;
    Cgroup::validate_for_v2(&resources(json)).unwrap();
    v1(&resources(json)).unwrap();
    // The host may have the version that supports it.
    for json in [
        r#"{"memory": {"swappiness": 3}}"#,
        r#"{"unified": {"memory.high": "1"}}"#,
    ] {
        Cgroup::validate(&resources(json)).unwrap();
    }
}

#[test]
fn unified_has_the_last_word() {
    let json = r#"{"unified": {"memory.max": "5", "cpu.max": "1000 1000"},
                   "memory": {"limit": 4}, "pids": {"limit": 3}}"#;
    let settings = Settings::new(&resources(json), &Versions::V2).unwrap();
    assert!(settings.v1.is_empty());
    let settings: Vec<_> = settings.v2.iter().map(|s| (&*s.file, &*s.value)).collect();
    assert_eq!(
        settings,
        [
            ("memory.max", "4"),
            ("pids.max", "3"),
            ("cpu.max", "1000 1000"),
            ("memory.max", "5"),
        ]
    );
}

/// Returns a directory that stands in for a cgroup: no kernel files appear in it by themselves.
fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    let cgroup = Cgroup {
        v2: Some(Directory::existing(directory.path().to_owned())),
        v1: Vec::new(),
        unit: None,
    };
    (directory, cgroup)
}

#[test]
fn a_limit_without_its_controller_or_its_file_is_an_error() {
    let (_directory, cgroup) = fake(&[("cgroup.controllers", "cpu pids\n"), ("pids.max", "")]);
    let limit = |json| cgroup.limit(&Settings::new(&resources(json), &Versions::V2).unwrap());
    limit(r#"{"pids": {"limit": 7}}"#).unwrap();
    assert_eq!(
        fs::read_to_string(cgroup.path().join("pids.max")).unwrap(),
        "7"
    );
    let error = limit(r#"{"memory": {"limit": 4096}}"#).unwrap_err();
    assert!(
        matches!(&error, CgroupError::NoController { controller, .. } if controller == "memory"),
        "{error}"
    );
    let error = limit(r#"{"cpu": {"shares": 2}}"#).unwrap_err();
    assert!(
        matches!(&error, CgroupError::NoFile { file, .. } if file == "cpu.weight"),
        "{error}"
    );
}

#[test]
fn oom_kills_are_read_from_memory_events() {
    let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
    let (_directory, cgroup) = fake(&[("memory.events", events)]);
    assert_eq!(cgroup.oom_kills().unwrap(), 2);
    let (_directory, cgroup) = fake(&[]);
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
}

#[test]
fn a_handle_is_read_back_as_it_was() {
    let (_directory, mut cgroup) = fake(&[]);
    cgroup.v1.push(v1::Member {
        controllers: vec!["cpu".into(), "cpuacct".into()],
        directory: Directory::existing("/x".into()),
    });
    let text = serde_json::to_string(&cgroup).unwrap();
    let read: Cgroup = serde_json::from_str(&text).unwrap();
    assert_eq!(read.v1, cgroup.v1);
    assert_eq!(read.v2, cgroup.v2);
}

#[test]
fn a_limit_below_what_is_used_is_refused_if_so_asked() {
    let (_directory, cgroup) = fake(&[
        ("cgroup.controllers", "memory\n"),
        ("memory.current", "8192\n"),
        ("memory.max", "max\n"),
    ]);
    let update = |json: &str| cgroup.update(&resources(json));
    let limit = || fs::read_to_string(cgroup.path().join("memory.max")).unwrap();
    let error = update(r#"{"memory": {"limit": 4096, "checkBeforeUpdate": true}}"#);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("memory.limit: 4096"), "{error}");
    assert_eq!(limit(), "max\n");
    update(r#"{"memory": {"limit": 8192, "checkBeforeUpdate": true}}"#).unwrap();
    update(r#"{"memory": {"limit": 4096}}"#).unwrap();
    assert_eq!(limit(), "4096");
}
