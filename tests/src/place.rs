//! Decides where tests that need KVM run: here if its KVM runs stock kernels, in the testbed
//! otherwise.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::{nacre, testbeds};

/// Returns the repository's path.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns whether this is the testbed.
pub fn in_testbed() -> bool {
    std::env::var_os("NACRE_TESTBED").is_some()
}

/// Where a target's tests run, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Here, on this host's kernel.
    Host,
    /// Here, in VMs that QEMU emulates, even if there is KVM.
    Emulated,
    /// In VMs on KVM: here if this host's runs stock kernels, in the testbed otherwise.
    Kvm,
}

impl Place {
    /// Makes what tests need there. Must be called before there is another thread.
    ///
    /// # Errors
    ///
    /// Returns how this process is to end, because something is missing, which has been reported,
    /// or because the tests have been run in the testbed.
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

/// Runs this program again in the testbed if this host's KVM can't run guests. Returns the result
/// of that as `Some`; after `None` the caller runs its tests here.
#[expect(
    clippy::print_stdout,
    reason = "tests/lane reads it, and no test has begun"
)]
fn elsewhere() -> Option<ExitCode> {
    match nacre_vmm::kvm::check() {
        Ok(_) => None,
        Err(why) if in_testbed() => {
            eprintln!("the testbed's KVM can't run guests: {why}");
            Some(ExitCode::FAILURE)
        }
        Err(why) => {
            println!("running in the testbed, since this host can't run guests: {why}");
            Some(testbeds::run())
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

/// Makes the fixtures and selects emulation by QEMU for VMs, or says what is missing.
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

/// Set in the environment while VMs are emulated by QEMU.
const EMULATED: &str = "NACRE_TESTS_EMULATED";

/// Returns whether VMs are emulated by QEMU.
pub fn is_emulated() -> bool {
    std::env::var_os(EMULATED).is_some()
}

fn debian_root() -> Result<(), String> {
    fixture("NACRE_DEBIAN_ROOTFS", "tests/fixtures/debian-rootfs")
}

/// Makes what tests need and passes it on in the environment: the testbed has no network.
fn fixtures() -> Result<(), String> {
    fixture("NACRE_KERNEL", "guest-kernel-config/build")?;
    fixture("NACRE_HOSTILE_GUEST", "tests/hostile-guest/build")?;
    debian_root()
}

/// Sets an environment variable to the path that a script prints, unless it is set already.
fn fixture(name: &str, script: &str) -> Result<(), String> {
    if std::env::var_os(name).is_none() {
        let path = path_from(script)?;
        // SAFETY: `main` calls this before there is another thread.
        unsafe { std::env::set_var(name, path) };
    }
    Ok(())
}

/// Returns the path that a script prints as its only line.
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
