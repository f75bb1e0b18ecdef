//! Parses the names of `linux.sysctl`
//! ([sysctl(8)](https://man7.org/linux/man-pages/man8/sysctl.8.html)).

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;

/// Returns the namespace that a parameter belongs to; `None` if it belongs to the whole kernel, or
/// its name isn't a parameter's.
pub(crate) fn namespace(name: &str) -> Option<LinuxNamespaceType> {
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

/// Whether a parameter is the one of that name in `kernel`.
pub(crate) fn sets(name: &str, kernels: &str) -> bool {
    path(name).is_some_and(|path| path == Path::new("kernel").join(kernels))
}

/// Returns a parameter's path below `/proc/sys`. As in sysctl(8), whichever of `.` and `/` comes
/// first is the separator; the other one is part of a name, and is written as the separator there.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
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
