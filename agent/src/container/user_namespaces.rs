//! Whether this is a user namespace, and why ordinary users can't have any on a host
//! ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)).

use std::fs;

/// Whether this process is in one: it has no rights over the host then, and can make no devices.
pub(super) fn in_one() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_of_the_first(&map))
}

/// The first user namespace of all maps every id to itself.
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
    // Debian's and Ubuntu's kernels have it.
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

/// What is known of the host that would explain that a user namespace can't be made or used;
/// nothing if there is no such thing.
pub(super) fn what_keeps_one_from_making_one() -> String {
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
