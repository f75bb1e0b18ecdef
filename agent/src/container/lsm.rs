//! `process.apparmorProfile` and `process.selinuxLabel`: what the kernel's security modules
//! make of the workload, from its exec on.
//!
//! They are set by writing to files of `/proc`, and whether they are shows nowhere. So those
//! files are the caller's, out of the container's reach, and nothing mounted over them is
//! written to (CVE-2019-16884, CVE-2025-52881).

use std::io;

use super::error::InitError;
use super::procfs::Proc;

/// Sets the AppArmor profile of what this process execs next
/// ([apparmor(7)](https://manpages.debian.org/apparmor.7)).
pub(super) fn set_apparmor_profile(proc: &Proc, profile: &str) -> Result<(), InitError> {
    let words = format!("exec {profile}");
    proc.write_attribute("apparmor/exec", &words)
        .map_err(|error| InitError::Label {
            field: "process.apparmorProfile",
            value: profile.to_owned(),
            source: explain(error, "is AppArmor enabled on this kernel?"),
        })
}

/// Sets the SELinux label of what this process execs next
/// ([proc_pid_attr(5)](https://man7.org/linux/man-pages/man5/proc_pid_attr.5.html)).
pub(super) fn set_selinux_label(proc: &Proc, label: &str) -> Result<(), InitError> {
    set_label(proc, "exec", label)
}

/// Sets the SELinux label of keyrings that this process makes; an empty one is the default.
pub(super) fn set_key_label(proc: &Proc, label: &str) -> Result<(), InitError> {
    set_label(proc, "keycreate", label)
}

fn set_label(proc: &Proc, attribute: &str, label: &str) -> Result<(), InitError> {
    proc.write_attribute(attribute, label)
        .map_err(|error| InitError::Label {
            field: "process.selinuxLabel",
            value: label.to_owned(),
            source: explain(error, "is SELinux enabled on this kernel?"),
        })
}

/// What the kernel says of an attribute of a module that isn't there is not what is wrong.
fn explain(error: io::Error, question: &str) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINVAL) => {
            io::Error::new(error.kind(), format!("{error} ({question})"))
        }
        _ => error,
    }
}
