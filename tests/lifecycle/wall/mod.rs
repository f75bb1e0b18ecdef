//! What can be reached of the host through the processes of a VM's container: nothing but the
//! container.

mod end;
mod entered;
mod reach;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nacre_tests::{Bundle, Case, Test};
use nix::unistd::Pid;

/// Returns all tests here, which are for VMs only.
pub(crate) fn tests() -> Vec<Test> {
    let tests = [reach::tests(), entered::tests(), end::tests()];
    tests.into_iter().flatten().collect()
}

/// Makes a directory on the host outside the container's share, with a file.
fn marker(case: &Case) -> PathBuf {
    let marker = case.directory().join("marker/file");
    fs::create_dir_all(marker.parent().unwrap()).unwrap();
    fs::write(&marker, "of the host").unwrap();
    marker
}

/// Makes a container with volumes, the second of which is read-only.
fn with_volumes(case: &Case, script: &str) -> Bundle {
    let mut bundle = case.busybox().shell(script);
    for (name, flags) in [("volume", "rw"), ("sealed", "ro")] {
        let source = case.directory().join(name);
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("file"), name).unwrap();
        let options = ["rbind", flags, "nosuid", "noexec"];
        bundle = bundle.mount(
            &format!("/{name}"),
            "bind",
            source.to_str().unwrap(),
            &options,
        );
    }
    bundle.mount("/tmp", "tmpfs", "tmpfs", &[])
}

const IDLE: &str = "echo ready; exec sleep 1000";

/// Starts a container and a later process in it. Returns the pids of both.
fn start(case: &Case, bundle: &Bundle) -> [Pid; 2] {
    let pid = case.detach(bundle);
    case.wait_for_output("ready");
    [pid, exec(case, case.nacre())]
}

fn exec(case: &Case, mut command: Command) -> Pid {
    let file = case.directory().join("exec-pid");
    command.args(["exec", "--detach", "--pid-file"]).arg(&file);
    command.args([case.id(), "sleep", "1000"]);
    assert_eq!(case.leave(command), 0, "{}", case.output());
    Pid::from_raw(fs::read_to_string(file).unwrap().parse().unwrap())
}
