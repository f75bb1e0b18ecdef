//! `linux.sysctl`: kernel parameters of the container's own namespaces.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use std::fs::File;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use oci_spec::runtime::LinuxNamespaceType;

use super::error::{InitError, Step};

/// The namespace that a parameter belongs to; `None` if it is of the whole kernel, or isn't a
/// name of one.
pub(super) fn namespace(name: &str) -> Option<LinuxNamespaceType> {
    let path = path(name)?;
    let path = path.to_str()?;
    match path {
        "kernel/domainname" | "kernel/hostname" => Some(LinuxNamespaceType::Uts),
        "kernel/msgmax"
        | "kernel/msgmnb"
        | "kernel/msgmni"
        | "kernel/sem"
        | "kernel/shmall"
        | "kernel/shmmax"
        | "kernel/shmmni"
        | "kernel/shm_rmid_forced" => Some(LinuxNamespaceType::Ipc),
        _ if path.starts_with("fs/mqueue/") => Some(LinuxNamespaceType::Ipc),
        _ if path.starts_with("net/") => Some(LinuxNamespaceType::Network),
        _ => None,
    }
}

/// Where a parameter is below `/proc/sys`. As in sysctl(8), whichever of `.` and `/` comes
/// first separates; the other one belongs to a name, and is written as the separator there.
fn path(name: &str) -> Option<PathBuf> {
    let separator = name.find(['.', '/']).map(|at| name.as_bytes()[at])?;
    let path: String = name
        .chars()
        .map(|c| match (c, separator) {
            ('.', b'.') => '/',
            ('/', b'.') => '.',
            (c, _) => c,
        })
        .collect();
    let sound = path
        .split('/')
        .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
    sound.then(|| PathBuf::from(path))
}

/// Writes parameters through `proc`, a proc file system. Which namespace's they are is decided
/// by who writes, not by whose proc file system it is.
pub(super) fn write(
    proc: BorrowedFd<'_>,
    parameters: &BTreeMap<&str, &str>,
) -> Result<(), InitError> {
    for (name, value) in parameters {
        let step = || format!("set linux.sysctl {name} to {value:?}");
        let path = path(name).ok_or(nix::errno::Errno::ENOENT).step(step)?;
        let how = OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let file = openat2(proc, &PathBuf::from("sys").join(path), how).step(step)?;
        if !super::mounts::is_proc(&file).step(step)? {
            return Err(InitError::NotProc);
        }
        File::from(file).write_all(value.as_bytes()).step(step)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_separator_will_do() {
        for (name, expected) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/100.rp_filter",
                "net/ipv4/conf/eth0.100/rp_filter",
            ),
            (
                "net/ipv4/conf/eth0.100/rp_filter",
                "net/ipv4/conf/eth0.100/rp_filter",
            ),
        ] {
            assert_eq!(path(name), Some(PathBuf::from(expected)), "{name}");
        }
    }

    #[test]
    fn only_parameters_of_namespaces_are_known() {
        use LinuxNamespaceType::*;
        for (name, expected) in [
            ("net.core.somaxconn", Some(Network)),
            ("kernel.shmmax", Some(Ipc)),
            ("fs.mqueue.msg_max", Some(Ipc)),
            ("kernel.hostname", Some(Uts)),
            ("kernel.pid_max", None),
            ("kernel.core_pattern", None),
            ("fs.mqueue", None),
            ("vm.swappiness", None),
            ("net", None),
            ("", None),
            ("net/../kernel/core_pattern", None),
            ("net.../kernel", None),
            ("net/./core", None),
            ("net//core", None),
            ("/net/core", None),
        ] {
            assert_eq!(namespace(name), expected, "{name}");
        }
    }
}
