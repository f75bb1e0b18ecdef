//! Checks what an ordinary user's VMs need besides: ids to map, and the device that networks are
//! carried by.

use std::{env, fs::OpenOptions, io};

use nix::unistd::geteuid;

use crate::isolation::vm::has_subordinate_ids;

use super::finding::Finding;

/// The programs that map ids.
const HELPERS: [&str; 2] = ["newuidmap", "newgidmap"];

/// Checks nothing for root, who has all of this.
pub(super) fn examine() -> Vec<Finding> {
    if geteuid().is_root() {
        return Vec::new();
    }
    let mut options = OpenOptions::new();
    let tun = options.read(true).write(true).open("/dev/net/tun");
    vec![
        ids(has_subordinate_ids(), HELPERS.into_iter().all(is_installed)),
        taps(tun.map(drop)),
    ]
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).exists())
}

fn ids(has_ids: io::Result<bool>, has_helpers: bool) -> Finding {
    const NAME: &str = "subordinate-ids";
    const REMEDY: &str =
        "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER";
    match (has_ids, has_helpers) {
        (Ok(true), true) => Finding::ok(NAME, "containers can have ids of their own"),
        (Ok(true), false) => Finding::error(
            NAME,
            "this user has subordinate ids, and newuidmap or newgidmap, which maps them, is missing",
            "install uidmap (Debian) or shadow-utils (Fedora)",
        ),
        (Ok(false), _) => Finding::warning(
            NAME,
            "this user has no subordinate ids: containers have a single user and group",
            REMEDY,
        ),
        (Err(error), _) => Finding::warning(
            NAME,
            format!("which subordinate ids this user has can't be read: {error}"),
            REMEDY,
        ),
    }
}

fn taps(opened: io::Result<()>) -> Finding {
    const NAME: &str = "taps";
    match opened {
        Ok(()) => Finding::ok(NAME, "/dev/net/tun carries the networks of VMs"),
        Err(error) => Finding::warning(
            NAME,
            format!("/dev/net/tun can't be opened, so VMs have no network: {error}"),
            "as root: modprobe tun, and chmod 666 /dev/net/tun, as udev does it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    #[test]
    fn what_a_user_lacks_is_said() {
        for (has_ids, has_helpers, level) in [
            (Ok(true), true, Level::Ok),
            (Ok(true), false, Level::Error),
            (Ok(false), false, Level::Warning),
            (Err(io::Error::other("")), true, Level::Warning),
        ] {
            let finding = ids(has_ids, has_helpers);
            assert_eq!(finding.level, level);
            assert_eq!(finding.remedy.is_some(), level != Level::Ok);
        }
        assert_eq!(taps(Ok(())).level, Level::Ok);
        assert_eq!(taps(Err(io::Error::other(""))).level, Level::Warning);
    }
}
