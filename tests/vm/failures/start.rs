//! What keeps a VM from starting: a kernel, an agent, memory, KVM or QEMU that won't do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nacre_tests::{Case, Outcome, Running, elf, nacre};

use super::{needs_kvm, needs_qemu};

nacre_tests::tests![
    a_kernel_that_isnt_there,
    a_kernel_that_isnt_one,
    a_guest_that_never_says_hello,
    a_memory_limit_too_small_to_boot,
    kvm_without_permission,
    kvm_missing,
    qemu_missing,
    qemu_too_old,
    a_qemu_that_is_none,
];

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

/// Returns lines of `[vm]` with another QEMU.
fn with_qemu(qemu: &Path) -> String {
    let (kernel, agent) = (nacre::kernel(), nacre::binary("nacre-agent"));
    format!("kernel = {kernel:?}\nagent = {agent:?}\nqemu = {qemu:?}")
}
