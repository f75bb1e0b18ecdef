//! What a host takes from a VM that runs: its processes, memory, room on a disk.

use std::fs;
use std::path::Path;

use nacre_tests::vm::{Role, with_role};
use nacre_tests::{Case, leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{failure, needs_qemu};

nacre_tests::tests![
    qemu_killed,
    the_sandbox_is_killed,
    a_killed_qemu_is_in_the_state,
    a_killed_sandbox_is_in_the_state,
    the_host_runs_out_of_memory,
    a_full_disk,
];

fn qemu_killed(case: &Case) {
    needs_qemu(case);
    let mut running = case.start(&case.busybox().shell("echo ready; sleep 1000"));
    running.wait_for_line("ready");
    kill(qemu(case), Signal::SIGKILL).unwrap();
    let message = running.finish().refused(1);
    assert!(message.contains("QEMU was killed by SIGKILL"), "{message}");
}

/// Returns the process that emulates this test's VM.
fn qemu(case: &Case) -> Pid {
    let nacre = leftovers::processes_of_nacre(case.id());
    let all = leftovers::processes(case.id()).into_iter();
    let mut qemu: Vec<_> = all.map(|(pid, _)| pid).collect();
    qemu.retain(|pid| !nacre.contains(pid));
    assert_eq!(qemu.len(), 1, "one QEMU");
    qemu[0]
}

fn the_sandbox_is_killed(case: &Case) {
    let mut running = case.start(&case.busybox().shell("echo ready; sleep 1000"));
    running.wait_for_line("ready");
    let sandbox = with_role(case.id(), Role::Sandbox);
    assert_eq!(sandbox.len(), 1, "one sandbox process");
    kill(sandbox[0], Signal::SIGKILL).unwrap();
    let outcome = running.finish();
    outcome.expect(137);
}

fn a_killed_qemu_is_in_the_state(case: &Case) {
    needs_qemu(case);
    case.detach(&case.busybox().args(["sleep", "1000"]));
    kill(qemu(case), Signal::SIGKILL).unwrap();
    let failure = failure(case);
    assert!(failure.contains("QEMU was killed by SIGKILL"), "{failure}");
}

fn a_killed_sandbox_is_in_the_state(case: &Case) {
    for (role, expected) in [
        (Role::Sandbox, "the sandbox process was killed by SIGKILL"),
        (
            Role::Monitor,
            "the VM failed: the monitor was killed by SIGKILL",
        ),
        (
            Role::StandIn,
            "the process that stands for the container was killed",
        ),
        (
            Role::FileServer,
            "the process that serves files to the guest was killed by SIGKILL",
        ),
    ] {
        case.detach(&case.busybox().shell("echo ready; sleep 1000"));
        case.wait_for_output("ready");
        kill(with_role(case.id(), role)[0], Signal::SIGKILL).unwrap();
        assert_eq!(failure(case), expected);
    }
    // A workload that ends isn't a failure.
    case.detach(&case.busybox().shell("exit 7"));
    case.wait_for_status("stopped");
    let state = case.command(&["state", case.id()]).ok();
    assert!(!state.contains("failure"), "{state}");
    case.remove_container();
}

const MIB: u64 = 1 << 20;

/// The cgroup above the container's has less memory than the VM is to have.
fn the_host_runs_out_of_memory(case: &Case) {
    let parent = format!("{}-above", case.id());
    let top = Path::new("/sys/fs/cgroup");
    let (directory, file) = if top.join("cgroup.controllers").exists() {
        (top.join(&parent), "memory.max")
    } else {
        (top.join("memory").join(&parent), "memory.limit_in_bytes")
    };
    fs::create_dir(&directory).unwrap();
    let enough_to_boot = if case.is_emulated() { 160 } else { 80 };
    fs::write(directory.join(file), (enough_to_boot * MIB).to_string()).unwrap();
    let bundle = case
        .busybox()
        .set("/linux/cgroupsPath", format!("/{parent}/vm"))
        .shell("dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 1000");
    case.detach(&bundle);
    let failure = failure(case);
    assert!(failure.contains("for want of memory"), "{failure}");
    assert!(failure.contains("vm.overhead-memory"), "{failure}");
    let outcome = case.run(&bundle);
    let message = outcome.refused(137);
    assert!(message.contains("for want of memory"), "{message}");
    for directory in leftovers::cgroups_named(&parent) {
        fs::remove_dir(directory).unwrap();
    }
}

fn a_full_disk(case: &Case) {
    let disk = case.directory().join("disk");
    fs::create_dir(&disk).unwrap();
    nix::mount::mount(
        Some("tmpfs"),
        &disk,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=2m"),
    )
    .unwrap();
    let bundle = case
        .busybox()
        .mount("/disk", "bind", disk.to_str().unwrap(), &["rbind", "rw"])
        .shell(
            "cd /disk; dd if=/dev/zero of=large bs=64k count=100 2>&1 | grep -o 'No space left on device'
             rm large; echo works >small; cat small",
        );
    let output = case.run(&bundle).ok();
    nix::mount::umount(&disk).unwrap();
    assert_eq!(output, "No space left on device\nworks\n");
}
