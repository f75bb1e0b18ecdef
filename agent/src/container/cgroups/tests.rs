use super::*;

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

#[test]
fn what_cant_be_honoured_is_refused_by_name() {
    for (json, field) in [
        (r#"{"network": {"classID": 5}}"#, "network.classID "),
        (
            r#"{"network": {"priorities": [{"name": "eth0", "priority": 1}]}}"#,
            "network.priorities ",
        ),
        (r#"{"rdma": {"mlx": {"hcaHandles": 1}}}"#, "rdma "),
        (r#"{"memory": {"limit": -5}}"#, "memory.limit"),
        (
            r#"{"devices": [{"allow": true, "access": "z"}]}"#,
            "devices[0].access",
        ),
    ] {
        let error = Cgroup::validate(&resources(json)).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("linux.resources.{field}")),
            "{json}: {error}"
        );
    }
    // What callers write without meaning a thing by it.
    let json = r#"{"network": {"classID": 0, "priorities": []}, "rdma": {}}"#;
    Cgroup::validate(&resources(json)).unwrap();
}

#[test]
fn unified_has_the_last_word() {
    let json = r#"{"unified": {"memory.max": "5", "cpu.max": "1000 1000"},
                   "memory": {"limit": 4}, "pids": {"limit": 3}}"#;
    let settings = settings(&resources(json)).unwrap();
    let settings: Vec<_> = settings.iter().map(|s| (&*s.file, &*s.value)).collect();
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

/// A directory that stands for a cgroup: kernel files don't appear by themselves in it.
fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    let cgroup = Cgroup {
        directory: directory.path().to_owned(),
        parents: Vec::new(),
    };
    (directory, cgroup)
}

#[test]
fn a_limit_without_its_controller_or_its_file_is_an_error() {
    let (_directory, cgroup) = fake(&[("cgroup.controllers", "cpu pids\n"), ("pids.max", "")]);
    let limit = |json| cgroup.limit(&settings(&resources(json)).unwrap());
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
fn a_missing_file_means_what_its_setting_says() {
    let (_directory, cgroup) = fake(&[("io.weight", "")]);
    let weight = Setting::new("f", "io.bfq.weight", 10).if_missing(IfMissing::Instead {
        file: "io.weight",
        value: "1".to_owned(),
    });
    cgroup.apply(&weight).unwrap();
    assert_eq!(
        fs::read_to_string(cgroup.path().join("io.weight")).unwrap(),
        "1"
    );
    let skipped = Setting::new("f", "memory.swap.max", "max").if_missing(IfMissing::Skip);
    cgroup.apply(&skipped).unwrap();
}

#[test]
fn oom_kills_are_read_from_memory_events() {
    let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
    let (_directory, cgroup) = fake(&[("memory.events", events)]);
    assert_eq!(cgroup.oom_kills().unwrap(), 2);
    let (_directory, cgroup) = fake(&[]);
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
}

mod real {
    //! On a cgroup2 file system of this machine, where there is one that can be written.

    use std::process::{Child, Command, Stdio};

    use super::*;

    /// The mount, or why not.
    fn mount() -> Option<&'static Path> {
        let reason = match mount_point() {
            Err(error) => error.to_string(),
            Ok(mount) if nix::unistd::access(mount, nix::unistd::AccessFlags::W_OK).is_err() => {
                format!("{} can't be written", mount.display())
            }
            Ok(mount) => return Some(mount),
        };
        eprintln!("skipped: {reason}");
        None
    }

    fn name(test: &str) -> PathBuf {
        PathBuf::from(format!("nacre-test-{}-{test}/leaf", std::process::id()))
    }

    fn has(mount: &Path, controller: &str) -> bool {
        let there = fs::read_to_string(mount.join("cgroup.controllers"))
            .unwrap()
            .split_whitespace()
            .any(|c| c == controller);
        if !there {
            eprintln!("skipped: no {controller} controller in {}", mount.display());
        }
        there
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn enter(cgroup: &Cgroup, process: &Child) {
        write(
            &cgroup.path().join("cgroup.procs"),
            &process.id().to_string(),
        )
        .unwrap();
    }

    #[test]
    fn killing_and_removing_leaves_nothing() {
        let Some(mount) = mount() else { return };
        for one_by_one in [false, true] {
            let path = name("kill");
            let cgroup = Cgroup::create(&path, None).unwrap();
            let nested = cgroup.path().join("a/b");
            fs::create_dir_all(&nested).unwrap();
            let mut processes = [sleeper(), sleeper()];
            enter(&cgroup, &processes[0]);
            write(&nested.join("cgroup.procs"), &processes[1].id().to_string()).unwrap();
            assert!(matches!(
                Cgroup::create(&path, None),
                Err(CgroupError::InUse { .. })
            ));
            if one_by_one {
                cgroup.kill_one_by_one().unwrap();
            }
            cgroup.remove().unwrap();
            for process in &mut processes {
                use std::os::unix::process::ExitStatusExt;
                assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGKILL));
            }
            assert!(!mount.join(&path).exists());
            assert!(!mount.join(path.parent().unwrap()).exists());
        }
    }

    #[test]
    fn an_empty_cgroup_is_replaced() {
        let Some(mount) = mount() else { return };
        let path = name("empty");
        fs::create_dir_all(mount.join(&path)).unwrap();
        let cgroup = Cgroup::create(&path, None).unwrap();
        cgroup.remove().unwrap();
        // It wasn't made by `create`, so `remove` left it.
        fs::remove_dir(mount.join(path.parent().unwrap())).unwrap();
    }

    #[test]
    fn a_failed_creation_leaves_nothing() {
        let Some(mount) = mount() else { return };
        let path = name("failed");
        let resources = resources(r#"{"unified": {"nonsense.max": "1"}}"#);
        let error = Cgroup::create(&path, Some(&resources)).unwrap_err();
        assert!(
            matches!(&error, CgroupError::NoController { controller, .. } if controller == "nonsense"),
            "{error}"
        );
        assert!(!mount.join(path.parent().unwrap()).exists());
    }

    #[test]
    fn the_kernel_enforces_the_device_rules() {
        let Some(_) = mount() else { return };
        let resources = resources(
            r#"{"devices": [{"allow": false},
                {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "w"}]}"#,
        );
        let cgroup = Cgroup::create(&name("devices"), Some(&resources)).unwrap();
        // Enters the cgroup by itself, then tries.
        let can = |script: &str| {
            let procs = cgroup.path().join("cgroup.procs");
            let script = format!("echo $$ > {} && {script}", procs.display());
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).stderr(Stdio::null());
            shell.status().unwrap().success()
        };
        let node = tempfile::tempdir().unwrap();
        let node = node.path().join("node");
        let node = node.display();
        assert!(can(": < /dev/null"));
        assert!(can(": > /dev/zero"));
        // Making any node is allowed, opening this one is not.
        if can(&format!("mknod {node} c 1 1")) {
            assert!(!can(&format!(": < {node}")));
        }
        if Path::new("/dev/kmsg").exists() {
            assert!(can(": > /dev/kmsg"));
            assert!(!can(": < /dev/kmsg"));
        }
        cgroup.remove().unwrap();
    }

    #[test]
    fn a_program_of_many_rules_is_accepted() {
        let Some(_) = mount() else { return };
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
        let cgroup = Cgroup::create(&name("rules"), Some(&resources)).unwrap();
        cgroup.remove().unwrap();
    }

    #[test]
    fn limits_reach_the_kernel() {
        let Some(mount) = mount() else { return };
        for (controller, json, file, expected) in [
            (
                "memory",
                r#"{"memory": {"limit": 8388608}}"#,
                "memory.max",
                "8388608",
            ),
            (
                "memory",
                r#"{"memory": {"reservation": 4096}}"#,
                "memory.low",
                "4096",
            ),
            ("cpu", r#"{"cpu": {"shares": 2048}}"#, "cpu.weight", "174"),
            (
                "cpu",
                r#"{"cpu": {"quota": 20000}}"#,
                "cpu.max",
                "20000 100000",
            ),
            ("cpu", r#"{"cpu": {"idle": 1}}"#, "cpu.idle", "1"),
            (
                "cpuset",
                r#"{"cpu": {"cpus": "0", "mems": "0"}}"#,
                "cpuset.cpus",
                "0",
            ),
            ("pids", r#"{"pids": {"limit": 5}}"#, "pids.max", "5"),
            ("pids", r#"{"unified": {"pids.max": "6"}}"#, "pids.max", "6"),
        ] {
            if has(mount, controller) {
                let cgroup = Cgroup::create(&name("limits"), Some(&resources(json))).unwrap();
                let value = fs::read_to_string(cgroup.path().join(file)).unwrap();
                assert_eq!(value.trim(), expected, "{json}");
                cgroup.remove().unwrap();
            }
        }
    }

    #[test]
    fn passing_the_memory_limit_kills_and_is_counted() {
        let Some(mount) = mount() else { return };
        if !has(mount, "memory") {
            return;
        }
        let resources = resources(r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#);
        let cgroup = Cgroup::create(&name("oom"), Some(&resources)).unwrap();
        let script = format!(
            "echo $$ > {}/cgroup.procs && head -c 64M /dev/zero | tail",
            cgroup.path().display()
        );
        Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(cgroup.oom_kills().unwrap(), 1);
        cgroup.remove().unwrap();
    }

    #[test]
    fn cpus_that_are_not_there_are_refused() {
        let Some(mount) = mount() else { return };
        if !has(mount, "cpuset") {
            return;
        }
        let resources = resources(r#"{"cpu": {"cpus": "0,4095"}}"#);
        let error = Cgroup::create(&name("cpus"), Some(&resources)).unwrap_err();
        // Beyond what the kernel is built for, it says so itself.
        assert!(
            matches!(
                error,
                CgroupError::Unavailable { .. } | CgroupError::Write { .. }
            ),
            "{error}"
        );
    }
}
