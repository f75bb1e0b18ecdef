//! What an ordinary user can have.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "needs root, and cgroups"]
fn an_ordinary_user_goes_without_where_nothing_is_asked_for() {
    let layout = host();
    if !nix::unistd::geteuid().is_root() {
        panic!("skipped: it needs root, to become another user");
    }
    let made = std::thread::spawn(|| {
        // SAFETY: no pointers. The bare call, unlike libc's, changes only this thread's user.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        let create = |path: Option<&str>, json: &str| {
            let path = path.map(Path::new);
            // SAFETY: no process is made without systemd.
            unsafe { Manager::Files.create(path, "nacre-test-user", Some(&resources(json))) }
        };
        let none = create(None, r#"{"devices": [{"allow": false}]}"#).unwrap();
        assert!(none.is_none());
        let limit = create(None, r#"{"pids": {"limit": 3}}"#).unwrap_err();
        let path = create(Some("/nacre-test-user/a"), "{}").unwrap_err();
        (limit.to_string(), path.to_string())
    });
    let (limit, path) = made.join().unwrap();
    assert!(limit.starts_with("linux.resources.pids.limit "), "{limit}");
    assert!(path.starts_with("linux.cgroupsPath "), "{path}");
    assert!(left(&layout, Path::new("/nacre-test-user")).is_empty());
}

/// Checks a cgroup that is delegated to a user as systemd does it.
#[test]
#[ignore = "needs root, and cgroups"]
fn an_ordinary_user_may_use_what_was_delegated() {
    let layout = host();
    if !layout.v1.is_empty() || !nix::unistd::geteuid().is_root() {
        panic!("skipped: it needs root, and cgroup v2 alone");
    }
    let mount = layout.v2.as_ref().unwrap();
    let path = name("delegated");
    let given = v2::make(mount, path.strip_prefix("/").unwrap()).unwrap();
    for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(given.path.join(file), Some(65534), None).unwrap();
    }
    let below = path.join("container");
    std::thread::spawn(move || {
        // SAFETY: as above.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        let limits = resources(r#"{"pids": {"limit": 3}, "devices": [{"allow": false}]}"#);
        // SAFETY: no process is made without systemd.
        let cgroup = unsafe { Manager::Files.create(Some(&below), "x", Some(&limits)) };
        let cgroup = cgroup.unwrap().unwrap().cgroup;
        let limit = fs::read_to_string(cgroup.path().join("pids.max")).unwrap();
        assert_eq!(limit.trim(), "3");
        cgroup.remove().unwrap();
    })
    .join()
    .unwrap();
    given.remove(Instant::now()).unwrap();
}
