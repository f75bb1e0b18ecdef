//! Failures that need a VM, or a KVM that can run one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nacre_tests::vm::{Role, with_role};
use nacre_tests::{Bundle, Case, Outcome, Running, elf, leftovers, nacre};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::lifecycle::status::own_namespaces_but;

nacre_tests::tests![
    a_kernel_that_isnt_there,
    a_kernel_that_isnt_one,
    a_guest_that_never_says_hello,
    a_guest_that_panics,
    a_guest_whose_agent_ends,
    a_guest_that_reboots,
    a_memory_limit_too_small_to_boot,
    kvm_without_permission,
    kvm_missing,
    qemu_missing,
    qemu_too_old,
    a_qemu_that_is_none,
    qemu_killed,
    the_sandbox_is_killed,
    a_panic_is_in_the_state,
    a_panic_before_the_start,
    a_panic_during_an_exec,
    a_killed_qemu_is_in_the_state,
    a_killed_sandbox_is_in_the_state,
    the_host_runs_out_of_memory,
    a_full_disk,
    the_agent_cant_be_killed,
    the_guest_runs_out_of_memory,
    a_frozen_guest,
    a_frozen_guest_is_in_the_state,
];

const MIB: u64 = 1 << 20;

/// Starts a container with lines of `[vm]` in place of the usual configuration.
fn start_with(case: &Case, lines: &str) -> Running {
    let path = case.directory().join("other.toml");
    fs::write(&path, format!("[vm]\n{lines}\n")).unwrap();
    let mut command = case.nacre_with(&path);
    command
        .args(["run", "--bundle"])
        .arg(case.busybox().write())
        .arg(case.id());
    case.spawn(command)
}

fn run_with(case: &Case, kernel: &Path, agent: &Path) -> Outcome {
    let (kernel, agent) = (kernel.display(), agent.display());
    start_with(case, &format!("kernel = \"{kernel}\"\nagent = \"{agent}\"")).finish()
}

fn a_kernel_that_isnt_there(case: &Case) {
    let kernel = case.directory().join("no-vmlinux");
    let message = run_with(case, &kernel, &nacre::binary("nacre-agent")).refused(1);
    assert!(message.contains(kernel.to_str().unwrap()), "{message}");
}

fn a_kernel_that_isnt_one(case: &Case) {
    let agent = nacre::binary("nacre-agent");
    let kernel = case.directory().join("vmlinux");
    let real = fs::read(nacre::kernel()).unwrap();
    let mut other = real.clone();
    other[18] = 0xb7; // e_machine: AArch64
    let cases: [&[u8]; 5] = [
        b"",
        b"#!/bin/sh\n",
        &real[..40],
        &real[..real.len() / 2],
        &other,
    ];
    for content in cases {
        fs::write(&kernel, content).unwrap();
        let message = run_with(case, &kernel, &agent).refused(1);
        assert!(
            message.contains(kernel.to_str().unwrap()) || message.contains("kernel"),
            "{} bytes: {message}",
            content.len()
        );
    }
}

fn a_guest_that_never_says_hello(case: &Case) {
    let talks = case.directory().join("talks");
    fs::write(&talks, elf::talks("this is no agent\n")).unwrap();
    let lines = format!(
        "kernel = \"{}\"\nagent = \"{}\"\nboot-timeout = 8",
        nacre::kernel().display(),
        talks.display()
    );
    let begin = Instant::now();
    let outcome = start_with(case, &lines).finish();
    let took = begin.elapsed();
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(16),
        "{took:?}"
    );
    let message = outcome.refused(1);
    assert!(message.contains("guest"), "{message}");
    assert!(
        message.contains("this is no agent"),
        "the console: {message}"
    );
}

/// Makes a bundle whose processes see the guest's init and may do anything to it and its kernel. The
/// guest is small: using all its memory takes long where KVM itself is emulated.
fn mighty(case: &Case) -> Bundle {
    let capabilities = json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    case.busybox()
        .annotation("dev.nacre.vm.memory", "64M")
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .set("/process/capabilities/bounding", capabilities.clone())
        .set("/process/capabilities/permitted", capabilities.clone())
        .set("/process/capabilities/effective", capabilities)
}

/// Returns a script that overwrites all code in the memory of the guest's init with the output of
/// `what`. When the process that does it ends, init runs; it may also run at any time before, which
/// is why the end of its code is written first.
fn overwriting_init(what: &str) -> String {
    format!(
        "range=$(grep ' r-xp ' /proc/1/maps | head -n 1 | cut -d' ' -f1)
         from=$((0x${{range%-*}})); to=$((0x${{range#*-}})); size=$((to - from))
         {what} >/dev/shm/code
         at=$((size / 4096)); count=64
         while [ $at -gt 0 ]; do
             [ $at -ge $count ] || count=$at
             at=$((at - count))
             dd if=/dev/shm/code of=/proc/1/mem bs=4096 count=$count skip=$at \
                 seek=$((from / 4096 + at)) conv=notrunc 2>/dev/null
         done"
    )
}

/// Returns a script that overwrites init with no-ops, up to a jump to itself.
fn freezing_init() -> String {
    overwriting_init(r"{ head -c $((size - 2)) /dev/zero | tr '\0' '\220'; printf '\353\376'; }")
}

/// Returns a script that overwrites init with no-ops, up to `exit(3)`.
fn ending_init() -> String {
    overwriting_init(
        r"{ head -c $((size - 12)) /dev/zero | tr '\0' '\220'
            printf '\277\003\000\000\000\270\074\000\000\000\017\005'; }",
    )
}

/// Makes the kernel panic: it runs out of memory while it may not kill anything for that.
const PANICKING: &str =
    "echo 2 >/proc/sys/vm/panic_on_oom; dd if=/dev/zero of=/dev/null bs=1G count=1";

fn a_guest_that_panics(case: &Case) {
    let message = case.run(&mighty(case).shell(PANICKING)).refused(1);
    assert!(message.contains("Kernel panic - not syncing"), "{message}");
    assert!(message.contains("panic_on_oom"), "its reason: {message}");
}

/// The agent can't be killed, but it can be broken; its kernel panics then.
fn a_guest_whose_agent_ends(case: &Case) {
    for (script, status) in [
        (ending_init(), "exitcode=0x00000300"),
        (
            overwriting_init("head -c $size /dev/zero"),
            "exitcode=0x0000000b",
        ),
    ] {
        let message = case.run(&mighty(case).shell(&script)).refused(1);
        assert!(message.contains("Attempted to kill init"), "{message}");
        assert!(message.contains(status), "{message}");
    }
}

fn a_guest_that_reboots(case: &Case) {
    let capabilities = json!(["CAP_SYS_BOOT"]);
    let bundle = case
        .busybox()
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .set("/process/capabilities/bounding", capabilities.clone())
        .set("/process/capabilities/permitted", capabilities.clone())
        .set("/process/capabilities/effective", capabilities)
        .shell("reboot -f; sleep 100");
    let message = case.run(&bundle).refused(1);
    assert!(message.contains("guest"), "{message}");
}

fn a_memory_limit_too_small_to_boot(case: &Case) {
    let bundle = case.busybox().annotation("dev.nacre.vm.memory", "8M");
    let message = case.run(&bundle).refused(1);
    assert!(message.contains("64"), "names the least: {message}");
}

fn kvm_without_permission(case: &Case) {
    needs_kvm(case);
    case.busybox().write();
    // Not run as another user, who might not be able to read the program under test or its kernel.
    let denied = "shift; mount -t tmpfs tmpfs /dev; mknod -m 000 /dev/kvm c 10 232; \
                  exec setpriv --bounding-set -dac_override,-dac_read_search \"$@\"";
    let message = in_shell(case, denied).refused(1);
    assert!(message.contains("/dev/kvm"), "{message}");
    assert!(message.to_lowercase().contains("permission"), "{message}");
}

fn kvm_missing(case: &Case) {
    needs_kvm(case);
    case.busybox().write();
    let hidden = "shift; mount -t tmpfs tmpfs /dev; exec \"$@\"";
    let message = in_shell(case, hidden).refused(1);
    assert!(message.contains("/dev/kvm"), "{message}");
}

fn qemu_missing(case: &Case) {
    needs_qemu(case);
    let message = start_with(case, &with_qemu(Path::new("/nonexistent/qemu"))).finish();
    let message = message.refused(1);
    assert!(message.contains("/nonexistent/qemu"), "{message}");
    assert!(
        message.contains("qemu-system-x86"),
        "names the package: {message}"
    );
}

fn qemu_too_old(case: &Case) {
    needs_qemu(case);
    let qemu = case.directory().join("qemu");
    fs::write(&qemu, "#!/bin/sh\necho QEMU emulator version 5.2.0\n").unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let path = case.directory().join("other.toml");
    fs::write(&path, format!("[vm]\n{}\n", with_qemu(&qemu))).unwrap();
    let mut doctor = case.nacre_with(&path);
    doctor.arg("doctor");
    let said = case.spawn(doctor).finish().text();
    assert!(said.contains("5.2") && said.contains("7.2"), "{said}");
}

fn a_qemu_that_is_none(case: &Case) {
    needs_qemu(case);
    let qemu = case.directory().join("qemu");
    // Its libraries are found, as a QEMU's are.
    fs::copy("/bin/ls", &qemu).unwrap();
    let began = Instant::now();
    let message = start_with(case, &with_qemu(&qemu)).finish().refused(1);
    assert!(
        message.contains("QEMU exited with status 2") && message.contains("7.2"),
        "{message}"
    );
    assert!(began.elapsed() < Duration::from_secs(30));
}

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

/// Returns lines of `[vm]` with another QEMU.
fn with_qemu(qemu: &Path) -> String {
    let (kernel, agent) = (nacre::kernel(), nacre::binary("nacre-agent"));
    format!("kernel = {kernel:?}\nagent = {agent:?}\nqemu = {qemu:?}")
}

/// Skips the test if it doesn't use QEMU.
fn needs_qemu(case: &Case) {
    if !case.is_emulated() {
        case.ignore("these VMs aren't emulated");
    }
}

/// Skips the test if it doesn't use KVM.
fn needs_kvm(case: &Case) {
    if case.is_emulated() {
        case.ignore("these VMs are emulated");
    }
}

/// Runs the container through a shell script in a mount namespace of its own, which gets the test's
/// directory and the command as its arguments.
fn in_shell(case: &Case, script: &str) -> Outcome {
    let nacre = case.nacre();
    let mut command = case.mark(Command::new("unshare"));
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            script,
            "sh",
        ])
        .arg(case.directory())
        .arg(nacre.get_program())
        .args(nacre.get_args())
        .args(["run", "--bundle"])
        .arg(case.directory())
        .arg(case.id());
    case.spawn(command).finish()
}

fn the_sandbox_is_killed(case: &Case) {
    let mut running = case.start(&case.busybox().shell("echo ready; sleep 1000"));
    running.wait_for_line("ready");
    let sandbox = with_role(case.id(), Role::Sandbox);
    assert_eq!(sandbox.len(), 1, "one sandbox process");
    nix::sys::signal::kill(sandbox[0], nix::sys::signal::Signal::SIGKILL).unwrap();
    let outcome = running.finish();
    outcome.expect(137);
}

/// Waits for the end of a container, and returns what its state says about it. Nothing is left of
/// it when it has been deleted.
#[track_caller]
fn failure(case: &Case) -> String {
    case.wait_for_status("stopped");
    let state = case.command(&["state", case.id()]).ok();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
    let failure = state["failure"].as_str();
    failure.unwrap_or_else(|| panic!("{state}")).to_owned()
}

fn a_panic_is_in_the_state(case: &Case) {
    case.detach(&mighty(case).shell(PANICKING));
    let failure = failure(case);
    assert!(failure.contains("Kernel panic - not syncing"), "{failure}");
    let log = fs::read_to_string(case.log()).unwrap();
    assert!(log.contains("Kernel panic - not syncing"), "{log}");
}

/// Makes the guest's kernel panic through an exec in the container.
fn panic_by_exec(case: &Case) {
    let outcome = case.command(&["exec", case.id(), "sh", "-c", PANICKING]);
    // This is the status of whatever is killed with its container.
    outcome.expect(137);
}

fn a_panic_before_the_start(case: &Case) {
    case.create(&mighty(case).args(["sleep", "1000"]));
    panic_by_exec(case);
    case.wait_for_status("stopped");
    let message = case.command(&["start", case.id()]).refused(1);
    assert!(message.contains("stopped"), "{message}");
    let failure = failure(case);
    assert!(failure.contains("Kernel panic - not syncing"), "{failure}");
}

fn a_panic_during_an_exec(case: &Case) {
    case.detach(&mighty(case).args(["sleep", "1000"]));
    let mut command = case.nacre();
    command.args(["exec", case.id(), "sh", "-c", "echo ready; sleep 1000"]);
    let mut other = case.spawn(command);
    other.wait_for_line("ready");
    panic_by_exec(case);
    other.finish().expect(137);
    let failure = failure(case);
    assert!(failure.contains("Kernel panic - not syncing"), "{failure}");
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

/// The cgroup above the container's has less memory than the VM is to have.
fn the_host_runs_out_of_memory(case: &Case) {
    let parent = format!("{}-above", case.id());
    let top = Path::new("/sys/fs/cgroup");
    let (directory, file) = match top.join("cgroup.controllers").exists() {
        true => (top.join(&parent), "memory.max"),
        false => (top.join("memory").join(&parent), "memory.limit_in_bytes"),
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

/// A process that sees the agent and has all rights can't kill it.
fn the_agent_cant_be_killed(case: &Case) {
    let capabilities = json!(["CAP_KILL", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]);
    let bundle = case
        .busybox()
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .set("/process/capabilities/bounding", capabilities.clone())
        .set("/process/capabilities/permitted", capabilities.clone())
        .set("/process/capabilities/effective", capabilities)
        .shell(
            "for signal in KILL STOP SEGV TERM; do kill -$signal 1; done; sleep 0.2
             cat /proc/1/comm; exit 9",
        );
    assert_eq!(case.run(&bundle).expect(9), "init\n");
}

/// The container has no limit: the kernel kills a process of the container, not the agent.
fn the_guest_runs_out_of_memory(case: &Case) {
    let bundle = case.busybox().shell(
        "dd if=/dev/zero of=/dev/null bs=1G count=1 2>/dev/null; echo $?
         i=0; while [ $i -lt 8 ]; do dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null &
         i=$((i+1)); done; wait; echo survived",
    );
    assert_eq!(case.run(&bundle).expect(0), "137\nsurvived\n");
}

/// Returns a command for a container whose guest has so many seconds to respond.
fn watched(case: &Case, words: &[&str], bundle: &Bundle, seconds: u32) -> Command {
    let lines = format!(
        "kernel = {:?}\nagent = {:?}\nboot-timeout = 120\nwatchdog = {seconds}",
        nacre::kernel(),
        nacre::binary("nacre-agent")
    );
    let path = case.directory().join("other.toml");
    fs::write(&path, format!("[vm]\n{lines}\n")).unwrap();
    let mut command = case.nacre_with(&path);
    command
        .args(words)
        .arg("--bundle")
        .arg(bundle.write())
        .arg(case.id());
    command
}

/// The guest's agent does nothing any more.
fn a_frozen_guest(case: &Case) {
    let bundle = mighty(case).shell(&freezing_init());
    let began = Instant::now();
    let command = watched(case, &["run"], &bundle, 4);
    let message = case.spawn(command).finish().refused(1);
    assert!(message.contains("the guest is frozen"), "{message}");
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(3) && took < Duration::from_secs(90),
        "{took:?}"
    );
}

fn a_frozen_guest_is_in_the_state(case: &Case) {
    let bundle = mighty(case).args(["sleep", "1000"]);
    let command = watched(case, &["run", "--detach"], &bundle, 4);
    assert_eq!(case.leave(command), 0, "{}", case.output());
    // The agent would answer once this has ended, at the latest.
    let freezing = freezing_init();
    let frozen = case.command(&["exec", case.id(), "sh", "-c", &freezing]);
    frozen.expect(137);
    let failure = failure(case);
    assert!(failure.contains("the guest is frozen"), "{failure}");
}
