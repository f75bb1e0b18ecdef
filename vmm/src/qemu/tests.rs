//! Tests machines whose kernel is a handful of instructions, in the host's QEMU, and programs that
//! aren't QEMU. The jail needs root; without it, or without QEMU, the tests are skipped and say so.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::machine::words;
use super::running::STOP_LIMIT;
use super::*;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::rng::Rng;
use crate::own_user::OwnUser;
use crate::test_kernels::*;
use crate::{Error, Exit, MAX_VCPUS, Qemu, QemuError, VmConfig};

/// Returns the host's QEMU; skips the test if there is none, or this process can't jail it.
fn qemu() -> Qemu {
    let qemu = Qemu::at(DEFAULT_PATH);
    // SAFETY: geteuid() always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        panic!("skipped: not root");
    }
    if let Err(error) = qemu.check() {
        panic!("skipped: {error}");
    }
    qemu
}

fn start(code: &[u8]) -> RunningQemu {
    QemuMachine::new(qemu(), config(code))
        .unwrap()
        .start(|| Ok(()))
        .unwrap()
}

fn ends_within(running: &RunningQemu, limit: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: running.exit_event().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one `pollfd` is passed, as the count says.
    unsafe { libc::poll(&mut poll, 1, limit.as_millis() as i32) == 1 }
}

/// Runs a machine until it ends by itself, which must be soon.
fn run(code: &[u8]) -> Result<Exit, Error> {
    let running = start(code);
    assert!(ends_within(&running, Duration::from_secs(60)));
    running.wait()
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_guest_powers_off_or_resets() {
    let end = run(power_off());
    assert_eq!(end.unwrap(), Exit::PowerOff);
    // Without a stack and an IDT, an exception is a triple fault, which resets a PC.
    assert_eq!(run(triple_fault()).unwrap(), Exit::Reset);
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_console_is_kept() {
    let running = start(hello());
    assert!(ends_within(&running, Duration::from_secs(60)));
    assert_eq!(running.console_tail(), "hi\n");
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_guest_that_does_not_end_is_stopped() {
    let mut running = start(halt());
    assert!(!ends_within(&running, Duration::from_millis(20)));
    running.stop();
    running.stop();
    assert!(ends_within(&running, Duration::from_millis(100)));
    let began = Instant::now();
    assert_eq!(running.wait().unwrap(), Exit::Stopped);
    assert!(began.elapsed() < STOP_LIMIT);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_machine_that_has_ended_is_paused_and_resumed() {
    let running = start(power_off());
    assert!(ends_within(&running, Duration::from_secs(60)));
    running.pause().unwrap();
    running.resume().unwrap();
    assert_eq!(running.wait().unwrap(), Exit::PowerOff);
}

/// A QEMU that was taken over may hold up a thread.
#[test]
#[ignore = "needs root and QEMU"]
fn a_machine_whose_device_does_not_stop_ends() {
    let running = start(halt());
    assert_eq!(running.within(STOP_LIMIT, || 7).unwrap(), 7);
    let (let_go, held_up) = mpsc::channel::<()>();
    let stuck = running.within(Duration::from_millis(20), move || held_up.recv());
    assert!(matches!(stuck, Err(Error::StopTimeout)));
    assert!(ends_within(&running, Duration::ZERO));
    let error = running.wait().unwrap_err();
    assert!(
        matches!(error, Error::DeviceFailed { device: "net", .. }),
        "{error}"
    );
    drop(let_go);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_qemu_that_is_killed_is_an_error() {
    let running = start(halt());
    running.child.kill();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err().to_string();
    assert_eq!(error, "QEMU was killed by SIGKILL");
}

/// Returns QEMU's directory in `/proc`, once QEMU is in its jail.
fn jailed(running: &RunningQemu) -> String {
    let info = format!("/proc/self/fdinfo/{}", running.child.as_raw_fd());
    let info = fs::read_to_string(info).unwrap();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let process = format!("/proc/{}", pid.unwrap().trim());
    // QEMU's own filter, after ours, is the last thing that it sets up.
    while !fs::read_to_string(format!("{process}/status"))
        .unwrap()
        .contains("Seccomp_filters:\t2")
    {
        assert!(!ends_within(running, Duration::from_millis(5)));
    }
    process
}

/// Checks what a jailed process can see and do, as the kernel shows it.
#[test]
#[ignore = "needs root and QEMU"]
fn qemu_is_jailed() {
    let running = start(halt());
    let process = jailed(&running);
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let user = OwnUser::choose().unwrap().logged().unwrap();
    for line in [
        format!("Uid:\t{user}\t{user}\t{user}\t{user}"),
        format!("Gid:\t{user}\t{user}\t{user}\t{user}"),
        "CapInh:\t0000000000000000".to_owned(),
        "CapPrm:\t0000000000000000".to_owned(),
        "CapEff:\t0000000000000000".to_owned(),
        "CapBnd:\t0000000000000000".to_owned(),
        "CapAmb:\t0000000000000000".to_owned(),
        "NoNewPrivs:\t1".to_owned(),
        "Seccomp:\t2".to_owned(),
    ] {
        assert!(
            status.lines().any(|l| l.trim_end() == line),
            "{line}: {status}"
        );
    }
    // Its session keyring is its own user's, who would otherwise have no key.
    let users = fs::read_to_string("/proc/key-users").unwrap();
    let users: Vec<_> = users.lines().map(str::trim_start).collect();
    let own = format!("{user}:");
    assert!(users.iter().any(|line| line.starts_with(&own)), "{users:?}");
    for namespace in ["mnt", "net", "ipc", "uts", "pid"] {
        let of = |process: &str| fs::read_link(format!("{process}/ns/{namespace}")).unwrap();
        assert_ne!(of(&process), of("/proc/self"), "{namespace}");
    }
    let mut root: Vec<_> = fs::read_dir(format!("{process}/root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    root.sort();
    root.retain(|name| name != "lib" && name != "lib64");
    assert_eq!(root, ["proc", "usr"]);
    let program = fs::read_dir(format!("{process}/root/usr/bin")).unwrap();
    assert_eq!(program.count(), 0);
    // Only a few of the host's libraries.
    let count = |root: &str| {
        let libraries = fs::read_dir(format!("{root}/usr/lib/x86_64-linux-gnu"));
        libraries.map_or(0, |directory| directory.count())
    };
    let (own, hosts) = (count(&format!("{process}/root")), count(""));
    assert!(own < 100 && own < hosts / 2, "{own} of {hosts}");
    let mounts = fs::read_to_string(format!("{process}/mountinfo")).unwrap();
    for mount in mounts.lines() {
        let options = mount.split(' ').nth(5).unwrap();
        assert!(options.starts_with("ro,nosuid,nodev"), "{mount}");
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn qemu_ends_with_the_thread_that_started_it() {
    qemu();
    // As when the process is killed: nobody stops the machine.
    let thread = std::thread::spawn(|| {
        let running = start(halt());
        jailed(&running);
        running
    });
    let running = thread.join().unwrap();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err().to_string();
    assert_eq!(error, "QEMU was killed by SIGKILL");
}

#[test]
#[ignore = "needs root and QEMU"]
fn what_is_no_qemu_is_named() {
    let missing = QemuMachine::new(Qemu::at("/nonexistent/qemu"), config(halt()));
    let Err(Error::Qemu(QemuError::Missing { path, .. })) = missing else {
        panic!("a QEMU where none is");
    };
    assert_eq!(path, Path::new("/nonexistent/qemu"));
    let directory = tempfile::tempdir().unwrap();
    let script = |text: &str| {
        let path = directory.path().join("qemu");
        // A file that is open for writing can't be run, and another test may fork in the meantime.
        let new = directory.path().join("new");
        fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, &path).unwrap();
        Qemu::at(path)
    };
    let old = script("echo QEMU emulator version 5.2.0 '(Debian)'");
    let error = old.check().unwrap_err();
    assert!(matches!(error, QemuError::TooOld { .. }), "{error}");
    for other in ["echo hello", "exit 3", "kill -9 $$"] {
        let error = script(other).check().unwrap_err();
        assert!(
            matches!(error, QemuError::NotQemu { .. }),
            "{other}: {error}"
        );
    }
    qemu();
    // It can't run in the jail, but its age is the more useful error.
    let old = script("echo QEMU emulator version 5.2.0 '(Debian)'");
    let running = QemuMachine::new(old, config(halt()))
        .unwrap()
        .start(|| Ok(()))
        .unwrap();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err();
    assert!(
        matches!(error, Error::Qemu(QemuError::TooOld { .. })),
        "{error}"
    );
    // It ends in the same way as QEMU does on a reset.
    let running = QemuMachine::new(Qemu::at("/bin/true"), config(halt())).unwrap();
    let running = running.start(|| Ok(())).unwrap();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err();
    assert!(
        matches!(error, Error::Qemu(QemuError::NotQemu { .. })),
        "{error}"
    );
    let young = script("echo QEMU emulator version 9.1.0");
    let running = QemuMachine::new(young, config(halt()))
        .unwrap()
        .start(|| Ok(()))
        .unwrap();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err().to_string();
    assert!(
        error.starts_with("QEMU exited with status 127: nacre: can't run QEMU"),
        "{error}"
    );
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_system_call_that_is_not_allowed_ends_it() {
    qemu();
    // A program that every host has, and that sets its umask whatever its arguments are.
    let other = QemuMachine::new(Qemu::at("/usr/bin/install"), config(halt())).unwrap();
    let running = other.start(|| Ok(())).unwrap();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err().to_string();
    let how = "QEMU was killed by its system call filter (SIGSYS)";
    assert!(error.starts_with(how), "{error}");
    // If there is an audit daemon, or this process can't read the log, the call isn't reported.
    if error != how {
        let call = format!("{how}, for system call {}", libc::SYS_umask);
        assert_eq!(error, call);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |config| {
        QemuMachine::new(Qemu::at("/bin/true"), config)
            .map(drop)
            .unwrap_err()
    };
    let vcpus = VmConfig {
        vcpus: MAX_VCPUS + 1,
        ..config(halt())
    };
    assert!(matches!(refused(vcpus), Error::Vcpus { .. }));
    let balloon = VmConfig {
        devices: vec![Box::new(Balloon::new())],
        ..config(halt())
    };
    assert!(matches!(refused(balloon), Error::NotForQemu { index: 0 }));
    let rngs = |count| (0..count).map(|_| Box::new(Rng::new()) as Box<_>).collect();
    let devices = VmConfig {
        devices: rngs(MAX_QEMU_DEVICES + 1),
        ..config(halt())
    };
    assert!(matches!(
        refused(devices),
        Error::Devices {
            max: MAX_QEMU_DEVICES,
            ..
        }
    ));
}

#[test]
fn the_kernel_is_told_what_it_need_not_measure() {
    assert!(words(1, Some(2_600_000)).ends_with(" tsc_early_khz=2600000"));
    assert!(words(1, None).contains("nolapic_timer"));
    assert!(!words(2, None).contains("nolapic_timer") && !words(2, None).contains("tsc"));
}
