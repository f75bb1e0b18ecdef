//! Whether this process is in a user namespace, and why ordinary users can't make one on this host
//! ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)).

use std::fs;

use nix::unistd::geteuid;

/// Whether this process is in a user namespace: it has no rights over the host then, and can't make
/// devices.
pub fn in_one() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_of_the_first(&map))
}

/// Whether this process lacks the rights of the host's root: it is another user, or only root of a
/// user namespace. It can't make device nodes then.
pub fn is_ordinary_user() -> bool {
    !geteuid().is_root() || in_one()
}

/// Whether this is the map of the initial user namespace, which maps every id to itself.
fn is_of_the_first(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// A setting of the host, a value of it, and what that means.
const SETTINGS: [(&str, &str, &str); 3] = [
    (
        "user/max_user_namespaces",
        "0",
        "this host allows none: sysctl user.max_user_namespaces is 0",
    ),
    // Only in Debian's and Ubuntu's kernels.
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "this host allows none to ordinary users: sysctl kernel.unprivileged_userns_clone is 0",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "this host restricts those of ordinary users by AppArmor: sysctl \
         kernel.apparmor_restrict_unprivileged_userns is 1",
    ),
];

/// Returns the setting of the host that explains why a user namespace can't be made or used; an
/// empty string if there is none.
pub fn what_keeps_one_from_making_one() -> String {
    let found = SETTINGS.iter().find(|(name, value, _)| {
        let file = format!("/proc/sys/{name}");
        fs::read_to_string(file).is_ok_and(|found| found.trim() == *value)
    });
    found.map_or_else(String::new, |(_, _, meaning)| format!(" ({meaning})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_user_namespace_is_known_by_its_map() {
        assert!(is_of_the_first("         0          0 4294967295\n"));
        assert!(!is_of_the_first("         0       1000          1\n"));
        assert!(!is_of_the_first(""));
    }
}
