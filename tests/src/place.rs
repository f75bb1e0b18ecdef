//! Where tests run that need a KVM: here if it runs stock kernels, in the testbed otherwise.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;

use crate::nacre;

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Whether this is the testbed.
pub fn in_testbed() -> bool {
    std::env::var_os("NACRE_TESTBED").is_some()
}

/// Where a target's tests run, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Here, on this host's kernel.
    Host,
    /// Here, in VMs that QEMU emulates, whatever the KVM.
    Emulated,
    /// In VMs on KVM: here if this host's runs stock kernels, in the testbed otherwise.
    Kvm,
}

impl Place {
    /// Makes what tests need there. To be called before there is another thread.
    ///
    /// # Errors
    ///
    /// How this process is to end, since something is missing, which has been said, or the
    /// tests have been run in the testbed.
    pub fn prepare(self) -> Result<(), ExitCode> {
        let made = match self {
            Place::Host => here(),
            Place::Emulated => emulated(),
            Place::Kvm if in_testbed() => Ok(()),
            Place::Kvm => nacre::check_built().and_then(|()| fixtures()),
        };
        made.map_err(|why| {
            eprintln!("{why}");
            ExitCode::FAILURE
        })?;
        match self {
            Place::Kvm => elsewhere().map_or(Ok(()), Err),
            Place::Host | Place::Emulated => Ok(()),
        }
    }
}

/// Runs this program again in the testbed if this host's KVM can't run guests. `Some` is how
/// that went; after `None` the caller runs its tests here.
fn elsewhere() -> Option<ExitCode> {
    match nacre_vmm::kvm::check() {
        Ok(_) => None,
        Err(why) if in_testbed() => {
            eprintln!("the testbed's KVM can't run guests: {why}");
            Some(ExitCode::FAILURE)
        }
        Err(why) => {
            eprintln!("running in the testbed, since this host can't run guests: {why}");
            Some(run_in_testbed())
        }
    }
}

/// Makes what tests need on this host's kernel, or says what is missing.
fn here() -> Result<(), String> {
    if nacre::is_reference() {
        return debian_root();
    }
    nacre::check_built().and_then(|()| debian_root())
}

/// Makes the fixtures, and has VMs emulated by QEMU from now on, or says what is missing.
fn emulated() -> Result<(), String> {
    nacre::check_built()?;
    let qemu = nacre_vmm::Qemu::at(nacre_vmm::qemu::DEFAULT_PATH);
    qemu.check()
        .map_err(|e| format!("{e}; install Debian's package qemu-system-x86"))?;
    fixtures()?;
    // SAFETY: there is no other thread yet.
    unsafe { std::env::set_var(EMULATED, "1") };
    Ok(())
}

/// In the environment while VMs are emulated by QEMU.
const EMULATED: &str = "NACRE_TESTS_EMULATED";

/// Whether VMs are emulated by QEMU.
pub fn is_emulated() -> bool {
    std::env::var_os(EMULATED).is_some()
}

fn debian_root() -> Result<(), String> {
    fixture("NACRE_DEBIAN_ROOTFS", "tests/fixtures/debian-rootfs")
}

/// Makes what tests need and passes it on in the environment: the testbed has no network.
fn fixtures() -> Result<(), String> {
    fixture("NACRE_KERNEL", "guest-kernel-config/build")?;
    debian_root()
}

/// Puts the path that a script prints into the environment, unless there is one already.
fn fixture(name: &str, script: &str) -> Result<(), String> {
    if std::env::var_os(name).is_none() {
        let path = path_from(script)?;
        // SAFETY: `main` calls this before there is another thread.
        unsafe { std::env::set_var(name, path) };
    }
    Ok(())
}

/// The path that a script prints as its only line.
fn path_from(script: &str) -> Result<PathBuf, String> {
    let output = Command::new(repository().join(script))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{script}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{script} failed: {}", output.status));
    }
    let path = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(path.trim_end()))
}

/// How many testbeds share the tests. Each has one CPU: with two VMs at once on two, QEMU's
/// emulated SVM has been seen to lock the machine's own kernel up and to end guests with triple
/// faults.
fn testbeds() -> usize {
    thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4))
}

fn run_in_testbed() -> ExitCode {
    let parts = testbeds();
    let started: Vec<_> = (0..parts).map(|part| start_part(part, parts)).collect();
    let mut worst = 0;
    // The first part's output is seen as it comes, the others' when they have ended.
    for part in started {
        let code = part.and_then(|part| {
            let output = part.wait_with_output()?;
            io::stdout().write_all(&output.stdout)?;
            Ok(output.status.code().unwrap_or(1))
        });
        worst = worst.max(code.unwrap_or_else(|e| {
            eprintln!("tests/testbed/run: {e}");
            1
        }));
    }
    ExitCode::from(u8::try_from(worst).unwrap_or(1))
}

fn start_part(part: usize, parts: usize) -> io::Result<Child> {
    Command::new(repository().join("tests/testbed/run"))
        .args(["--cpus", "1", "--memory", "8192", "--timeout", "2400", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env("NACRE_TESTS_PART", format!("{part}/{parts}"))
        .stdin(Stdio::null())
        .stdout(match part {
            0 => Stdio::inherit(),
            _ => Stdio::piped(),
        })
        .spawn()
}

/// Of all tests, those that are this process's part: every `parts`-th.
pub(crate) fn part<T>(tests: Vec<T>) -> Vec<T> {
    let (part, parts) = std::env::var("NACRE_TESTS_PART")
        .ok()
        .and_then(|spec| {
            let (part, parts) = spec.split_once('/')?;
            Some((part.parse().ok()?, parts.parse().ok().filter(|&n| n > 0)?))
        })
        .unwrap_or((0, 1));
    let mine = |index: usize| index % parts == part;
    (0..)
        .zip(tests)
        .filter_map(|(index, test)| mine(index).then_some(test))
        .collect()
}
