//! `process.apparmorProfile` and `process.selinuxLabel`: how the kernel's security modules confine
//! the workload, from its exec on.
//!
//! They are set by writing to files of `/proc`, and nothing shows whether that worked. So those
//! files are the caller's, out of the container's reach, and nothing mounted over them is written
//! to (CVE-2019-16884, CVE-2025-52881).

use std::io;

use crate::container::error::InitError;
use crate::container::kernel::procfs::Proc;

/// Sets the AppArmor profile of this process from its next exec on
/// ([apparmor(7)](https://manpages.debian.org/apparmor.7)).
pub(crate) fn set_apparmor_profile(proc: &Proc, profile: &str) -> Result<(), InitError> {
    let words = format!("exec {profile}");
    proc.write_attribute("apparmor/exec", &words)
        .map_err(|error| InitError::Label {
            field: "process.apparmorProfile",
            value: profile.to_owned(),
            source: explain(error, "is AppArmor enabled on this kernel?"),
        })
}

/// Sets the SELinux label of this process from its next exec on
/// ([proc_pid_attr(5)](https://man7.org/linux/man-pages/man5/proc_pid_attr.5.html)).
pub(crate) fn set_selinux_label(proc: &Proc, label: &str) -> Result<(), InitError> {
    set_label(proc, "exec", label)
}

/// Sets the SELinux label of keyrings that this process makes; an empty one means the default.
pub(crate) fn set_key_label(proc: &Proc, label: &str) -> Result<(), InitError> {
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

/// Adds a hint: if a security module is missing, the kernel's error doesn't say so.
fn explain(error: io::Error, question: &str) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINVAL) => {
            io::Error::new(error.kind(), format!("{error} ({question})"))
        }
        _ => error,
    }
}
