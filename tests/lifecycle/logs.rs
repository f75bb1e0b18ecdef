//! What a VM has to say gets into its logs, and no process that a guest may take over has one open.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nacre_tests::Case;
use nacre_tests::nacre;
use nacre_tests::vm::{self, Role};
use nix::unistd::Pid;

nacre_tests::tests![
    only_the_sandbox_process_has_a_log_open: Vm,
];

/// Where the guest's console goes.
fn console_log(case: &Case) -> PathBuf {
    case.directory().join("console-log")
}

/// Returns a configuration file that says so.
fn configuration(case: &Case) -> PathBuf {
    let log = console_log(case);
    let text = nacre::configuration();
    let path = case.directory().join("other.toml");
    fs::write(&path, format!("{text}console-log = {log:?}\n")).unwrap();
    path
}

/// Returns which of these files a process has open.
fn open(pid: Pid, files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let identity = |path: &Path| {
        let data = fs::metadata(path).ok()?;
        Some((data.dev(), data.ino()))
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let descriptors = descriptors.map(|descriptor| identity(&descriptor.unwrap().path()));
    let open: BTreeSet<_> = descriptors.flatten().collect();
    let is_open = |path: &&PathBuf| open.contains(&identity(path).expect("the file is there"));
    files.iter().filter(is_open).cloned().collect()
}

fn only_the_sandbox_process_has_a_log_open(case: &Case) {
    let bundle = case.busybox().shell("echo ready; exec sleep 1000");
    let mut command = case.nacre_with(&configuration(case));
    command.args(["--debug", "run", "--detach", "--bundle"]);
    command.arg(bundle.write()).arg(case.id());
    assert_eq!(case.leave(command), 0, "{}", case.output());
    case.wait_for_output("ready");
    // The last is its standard error.
    let logs = [
        case.log(),
        console_log(case),
        case.directory().join("output"),
    ];
    let all = BTreeSet::from(logs.clone());
    let mut roles = Vec::new();
    for (pid, role) in vm::processes(case.id()) {
        let expected = match role {
            Role::Sandbox => all.clone(),
            _ => BTreeSet::new(),
        };
        assert_eq!(open(pid, &logs), expected, "{role:?}");
        roles.push(role);
    }
    for role in [
        Role::Sandbox,
        Role::Monitor,
        Role::FileServer,
        Role::StandIn,
    ] {
        assert!(roles.contains(&role), "{role:?} in {roles:?}");
    }
    assert_eq!(roles.contains(&Role::Qemu), case.is_emulated());
    case.remove_container();
}
