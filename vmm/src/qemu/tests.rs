//! Machines whose kernel is a handful of instructions, in the host's QEMU, and what isn't a
//! QEMU. The jail needs root; without it, or without QEMU, they are skipped and say so.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::jail::FIRST_USER;
use super::*;
use crate::MAX_VCPUS;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::rng::Rng;
use crate::test_kernels::*;

/// The host's QEMU, if this process can jail it.
fn qemu() -> Option<Qemu> {
    let qemu = Qemu::at(DEFAULT_PATH);
    // SAFETY: geteuid() always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: not root");
        return None;
    }
    match qemu.check() {
        Ok(_) => Some(qemu),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn start(code: &[u8]) -> Option<Running> {
    Some(Made::new(qemu()?, config(code)).unwrap().start().unwrap())
}

fn ends_within(running: &Running, limit: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: running.exit_event().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one `pollfd` is passed, as the count says.
    unsafe { libc::poll(&mut poll, 1, limit.as_millis() as i32) == 1 }
}

/// Runs a machine to its own end, which must come soon.
fn run(code: &[u8]) -> Option<Result<Exit, Error>> {
    let running = start(code)?;
    assert!(ends_within(&running, Duration::from_secs(60)));
    Some(running.wait())
}

#[test]
fn the_guest_powers_off_or_resets() {
    let Some(end) = run(power_off()) else {
        return;
    };
    assert_eq!(end.unwrap(), Exit::PowerOff);
    // Without a stack and an IDT an exception is a triple fault, which resets a PC.
    assert_eq!(run(triple_fault()).unwrap().unwrap(), Exit::Reset);
}

#[test]
fn the_console_is_kept() {
    let Some(running) = start(hello()) else {
        return;
    };
    assert!(ends_within(&running, Duration::from_secs(60)));
    assert_eq!(running.console_tail(), "hi\n");
}

#[test]
fn a_guest_that_does_not_end_is_stopped() {
    let Some(mut running) = start(halt()) else {
        return;
    };
    assert!(!ends_within(&running, Duration::from_millis(20)));
    running.stop();
    running.stop();
    assert!(ends_within(&running, Duration::from_millis(100)));
    let began = Instant::now();
    assert_eq!(running.wait().unwrap(), Exit::Stopped);
    assert!(began.elapsed() < STOP_LIMIT);
}

#[test]
fn a_machine_that_has_ended_is_paused_and_resumed() {
    let Some(running) = start(power_off()) else {
        return;
    };
    assert!(ends_within(&running, Duration::from_secs(60)));
    running.pause().unwrap();
    running.resume().unwrap();
    assert_eq!(running.wait().unwrap(), Exit::PowerOff);
}

/// A thread that a QEMU that was taken over holds up.
#[test]
fn a_machine_whose_device_does_not_stop_ends() {
    let Some(running) = start(halt()) else {
        return;
    };
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
fn a_qemu_that_is_killed_is_an_error() {
    let Some(running) = start(halt()) else {
        return;
    };
    running.child.kill();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err().to_string();
    assert_eq!(error, "QEMU was killed by SIGKILL");
}

/// QEMU's directory in `/proc`, once it is in its jail.
fn jailed(running: &Running) -> String {
    let info = format!("/proc/self/fdinfo/{}", running.child.as_raw_fd());
    let info = fs::read_to_string(info).unwrap();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let process = format!("/proc/{}", pid.unwrap().trim());
    // Its filter is the last thing that it sets up.
    while !fs::read_to_string(format!("{process}/status"))
        .unwrap()
        .contains("Seccomp:\t2")
    {
        assert!(!ends_within(running, Duration::from_millis(5)));
    }
    process
}

/// What a jailed process can see and do, as the kernel shows it.
#[test]
fn qemu_is_jailed() {
    let Some(running) = start(halt()) else {
        return;
    };
    let process = jailed(&running);
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let user = FIRST_USER + std::process::id();
    for line in [
        format!("Uid:\t{user}\t{user}\t{user}\t{user}"),
        format!("Gid:\t{user}\t{user}\t{user}\t{user}"),
        "CapEff:\t0000000000000000".to_owned(),
        "CapPrm:\t0000000000000000".to_owned(),
        "NoNewPrivs:\t1".to_owned(),
    ] {
        assert!(
            status.lines().any(|l| l.trim_end() == line),
            "{line}: {status}"
        );
    }
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
    // Of the host's libraries, few.
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
fn qemu_ends_with_the_thread_that_started_it() {
    if qemu().is_none() {
        return;
    }
    // As when the process is killed: nobody stops it.
    let thread = std::thread::spawn(|| {
        let running = start(halt()).unwrap();
        jailed(&running);
        running
    });
    let running = thread.join().unwrap();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err().to_string();
    assert_eq!(error, "QEMU was killed by SIGKILL");
}

#[test]
fn what_is_no_qemu_is_named() {
    let missing = Made::new(Qemu::at("/nonexistent/qemu"), config(halt()));
    let Err(Error::Qemu(QemuError::Missing { path, .. })) = missing else {
        panic!("a QEMU where none is");
    };
    assert_eq!(path, Path::new("/nonexistent/qemu"));
    let directory = tempfile::tempdir().unwrap();
    let script = |text: &str| {
        let path = directory.path().join("qemu");
        // A file that is being written can't be run: another test may fork meanwhile.
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
    if qemu().is_none() {
        return;
    }
    // It can't run in the jail, and its age says more than that.
    let old = script("echo QEMU emulator version 5.2.0 '(Debian)'");
    let running = Made::new(old, config(halt())).unwrap().start().unwrap();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err();
    assert!(
        matches!(error, Error::Qemu(QemuError::TooOld { .. })),
        "{error}"
    );
    // It ends as QEMU does on a reset.
    let running = Made::new(Qemu::at("/bin/true"), config(halt())).unwrap();
    let running = running.start().unwrap();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err();
    assert!(
        matches!(error, Error::Qemu(QemuError::NotQemu { .. })),
        "{error}"
    );
    let young = script("echo QEMU emulator version 9.1.0");
    let running = Made::new(young, config(halt())).unwrap().start().unwrap();
    assert!(ends_within(&running, Duration::from_secs(20)));
    let error = running.wait().unwrap_err().to_string();
    assert!(
        error.starts_with("QEMU exited with status 127: nacre: can't run QEMU"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |config| {
        Made::new(Qemu::at("/bin/true"), config)
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
