//! Where tests run that need a KVM: here if it runs stock kernels, in the testbed otherwise.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::nacre;

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Whether this is the testbed.
pub fn in_testbed() -> bool {
    std::env::var_os("NACRE_TESTBED").is_some()
}

/// Makes the fixtures, and runs this program again in the testbed if this host's KVM can't
/// run guests. `Some` is how that went; after `None` the caller runs its tests here.
pub fn elsewhere() -> Option<ExitCode> {
    let testbed = in_testbed();
    if !testbed && let Err(why) = nacre::check_built().and_then(|()| fixtures()) {
        eprintln!("{why}");
        return Some(ExitCode::FAILURE);
    }
    match nacre_vmm::kvm::check() {
        Ok(_) => None,
        Err(why) if testbed => {
            eprintln!("the testbed's KVM can't run guests: {why}");
            Some(ExitCode::FAILURE)
        }
        Err(why) => {
            eprintln!("running in the testbed, since this host can't run guests: {why}");
            Some(run_in_testbed())
        }
    }
}

/// Makes what tests need and passes it on in the environment: the testbed has no network.
fn fixtures() -> Result<(), String> {
    for (name, script) in [
        ("NACRE_KERNEL", "guest-kernel-config/build"),
        ("NACRE_DEBIAN_ROOTFS", "tests/fixtures/debian-rootfs"),
    ] {
        if std::env::var_os(name).is_none() {
            let path = path_from(script)?;
            // SAFETY: `main` calls this before there is another thread.
            unsafe { std::env::set_var(name, path) };
        }
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

fn run_in_testbed() -> ExitCode {
    let this = std::env::current_exe().unwrap();
    let status = Command::new(repository().join("tests/testbed/run"))
        .args(["--memory", "8192", "--timeout", "2400", "--"])
        .arg(this)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .status();
    match status {
        Ok(status) => ExitCode::from(status.code().unwrap_or(1) as u8),
        Err(e) => {
            eprintln!("tests/testbed/run: {e}");
            ExitCode::FAILURE
        }
    }
}
