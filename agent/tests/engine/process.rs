//! `process`: how the workload finds itself set up.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, leak, null_stdio, wait_for_exit};

tests![
    home_comes_from_passwd,
    cwd_is_made_and_entered,
    a_cwd_that_the_user_may_not_enter_will_do,
    a_capability_that_is_not_held_is_named,
    no_capabilities_means_none,
    capabilities_outlive_the_change_of_user,
    a_limit_that_cannot_be_set_is_named,
    the_personality_is_set,
    cve_2024_21626_no_descriptor_leaks,
    descriptors_are_preserved_up_to_the_number,
    what_the_caller_did_not_pass_is_not_preserved,
    the_session_keyring_is_its_own,
    a_label_that_cannot_be_set_is_named,
    streams_can_be_opened_by_the_user,
];

fn home_comes_from_passwd() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("echo $HOME");
    assert_eq!(bundle.output(), "/\n");
    fs::create_dir(bundle.at("etc")).unwrap();
    fs::write(
        bundle.at("etc/passwd"),
        "root:x:0:0::/root:\nu:x:1000:1000::/home/u:\n",
    )
    .unwrap();
    assert_eq!(bundle.output(), "/root\n");
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 5});
    assert_eq!(bundle.output(), "/home/u\n");
    Ok(())
}

fn cwd_is_made_and_entered() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("/bin/readlink /proc/self/cwd");
    bundle.config["process"]["cwd"] = json!("/new/directory");
    assert_eq!(bundle.output(), "/new/directory\n");
    assert!(bundle.at("new/directory").is_dir());
    bundle.config["process"]["cwd"] = json!("/dev/shm");
    assert_eq!(bundle.output(), "/dev/shm\n");
    // A program may be named relative to the working directory.
    bundle.config["process"]["cwd"] = json!("/bin");
    bundle.config["process"]["args"] = json!(["./echo", "here"]);
    assert_eq!(bundle.output(), "here\n");
    fs::write(bundle.at("file"), "").unwrap();
    bundle.config["process"]["cwd"] = json!("/file");
    let (message, _) = bundle.error();
    assert!(
        message.contains("process.cwd /file: Not a directory"),
        "{message}"
    );
    Ok(())
}

fn a_cwd_that_the_user_may_not_enter_will_do() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("/bin/readlink /proc/self/cwd");
    fs::create_dir(bundle.at("private")).unwrap();
    fs::set_permissions(bundle.at("private"), fs::Permissions::from_mode(0o700)).unwrap();
    bundle.config["process"]["cwd"] = json!("/private");
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(bundle.output(), "/private\n");
    Ok(())
}

fn capability_sets(bundle: &Bundle) -> Vec<(String, String)> {
    let output = bundle.output();
    let sets = output.lines().map(|line| {
        let (name, value) = line.split_once(":\t").unwrap();
        let value = u64::from_str_radix(value, 16).unwrap();
        (name.to_owned(), format!("{value:x}"))
    });
    sets.collect()
}

const SHOW_CAPABILITIES: &str = "exec grep ^Cap /proc/self/status";

fn a_capability_that_is_not_held_is_named() -> Result<(), Skipped> {
    let held = caps::read(None, caps::CapSet::Bounding).unwrap();
    let Some(lacking) = caps::all().into_iter().find(|c| !held.contains(c)) else {
        return Err(Skipped("this process has every capability"));
    };
    for set in ["bounding", "permitted"] {
        let mut bundle = Bundle::new("true");
        bundle.config["process"]["capabilities"] = json!({set: [lacking.to_string()]});
        let (message, _) = bundle.error();
        let words = format!("process.capabilities: {lacking} can't be given");
        assert!(message.starts_with(&words), "{message}");
    }
    Ok(())
}

fn no_capabilities_means_none() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(SHOW_CAPABILITIES);
    bundle.config["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    assert!(
        capability_sets(&bundle)
            .iter()
            .all(|(_, value)| value == "0")
    );
    Ok(())
}

fn capabilities_outlive_the_change_of_user() -> Result<(), Skipped> {
    // Without ambient capabilities, a user's program starts with none, but may gain those of its
    // file up to the bounding set, as the kernel defines it.
    let mut bundle = Bundle::new(SHOW_CAPABILITIES);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let sets = capability_sets(&bundle);
    let value = |name: &str| &sets.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(
        (value("CapEff").as_str(), value("CapBnd").as_str()),
        ("0", "20000420")
    );
    Ok(())
}

fn a_limit_that_cannot_be_set_is_named() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    // Above fs.nr_open, which not even root may exceed.
    let limit = u64::MAX - 1;
    bundle.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": limit}]);
    let (message, status) = bundle.error();
    let expected = format!("can't set RLIMIT_NOFILE to 1:{limit}: Operation not permitted");
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(status, 1);
    Ok(())
}

// CVE-2024-21626.
fn cve_2024_21626_no_descriptor_leaks() -> Result<(), Skipped> {
    // Descriptors of several kinds, one of them with a number that no loop would reach.
    let file = fs::File::open("/etc/passwd").unwrap();
    let directory = fs::File::open("/").unwrap();
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let number = limit.min(1001) as i32 - 1;
    // SAFETY: the call touches no memory, and nothing else knows of what it makes.
    let far = unsafe { OwnedFd::from_raw_fd(libc::fcntl(0, libc::F_DUPFD, number)) };
    leak(&file);
    leak(&directory);
    leak(&reader);
    leak(&socket);
    leak(&far);
    let mut bundle = Bundle::new("");
    bundle.config["process"]["args"] = json!(["ls", "/proc/self/fd"]);
    // The last one is the descriptor of the directory being listed.
    assert_eq!(bundle.output(), "0\n1\n2\n3\n");
    Ok(())
}

/// Descriptors from 3 on, as a caller passes them, which are closed when this is dropped.
struct Passed(std::ops::Range<i32>);

impl Passed {
    /// Makes them, unless this program already uses one of the numbers.
    fn new(count: i32) -> Result<Self, Skipped> {
        let range = 3..3 + count;
        for fd in range.clone() {
            // SAFETY: neither call touches memory; the descriptor was free.
            unsafe {
                if libc::fcntl(fd, libc::F_GETFD) != -1 {
                    return Err(Skipped("descriptors 3 and up are in use here"));
                }
                assert_eq!(libc::dup2(0, fd), fd);
            }
        }
        Ok(Passed(range))
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        for fd in self.0.clone() {
            // SAFETY: they are ours, and nothing else closes them.
            unsafe { libc::close(fd) };
        }
    }
}

fn descriptors_are_preserved_up_to_the_number() -> Result<(), Skipped> {
    let passed = Passed::new(3)?;
    let mut bundle = Bundle::new("");
    bundle.config["process"]["args"] = json!(["ls", "/proc/self/fd"]);
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let mut stdio = null_stdio();
    stdio.stdout = writer;
    let mut container = bundle
        .create_with(stdio, |options| options.preserve_fds = 2)
        .unwrap();
    container.start().unwrap();
    let output = std::io::read_to_string(fs::File::from(reader)).unwrap();
    // The fifth is the descriptor of the directory being listed.
    assert_eq!(output, "0\n1\n2\n3\n4\n5\n");
    wait_for_exit(&container);
    container.destroy().unwrap();
    drop(passed);
    Ok(())
}

fn what_the_caller_did_not_pass_is_not_preserved() -> Result<(), Skipped> {
    let passed = Passed::new(1)?;
    let bundle = Bundle::new("true");
    let error = |count| {
        let result = bundle.create_with(null_stdio(), |options| options.preserve_fds = count);
        result.map(|c| c.destroy()).unwrap_err().to_string()
    };
    // What the engine's program has opened since is close-on-exec.
    let own = fs::File::open("/dev/null").unwrap();
    let fd = own.as_raw_fd();
    assert_eq!(
        error(2),
        format!("descriptor {fd}, which is to be preserved, isn't one that this program was given")
    );
    drop(passed);
    Ok(())
}

fn the_session_keyring_is_its_own() -> Result<(), Skipped> {
    if !Path::new("/proc/keys").exists() {
        return Err(Skipped("the kernel has no keyrings"));
    }
    // A key that is visible only to those who possess it.
    let (kind, name) = (c"user".as_ptr(), c"nacre-test-key".as_ptr());
    // SAFETY: the type, the name and the payload are C strings, the latter of one byte.
    let key = unsafe {
        let session = libc::KEY_SPEC_SESSION_KEYRING;
        libc::syscall(libc::SYS_add_key, kind, name, c"x".as_ptr(), 1, session)
    };
    // SAFETY: these take integers alone.
    let keyctl = |call: u32, key: i64, value: u32| unsafe {
        libc::syscall(libc::SYS_keyctl, call, key, value)
    };
    assert!(key > 0);
    assert_eq!(keyctl(libc::KEYCTL_SETPERM, key, 0x3f00_0000), 0);
    let mut bundle = Bundle::new("cat /proc/keys");
    bundle.config["linux"]["maskedPaths"] = json!([]);
    let keys = |no_new_keyring| {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut stdio = null_stdio();
        stdio.stdout = writer;
        let mut container = bundle
            .create_with(stdio, |options| options.no_new_keyring = no_new_keyring)
            .unwrap();
        container.start().unwrap();
        let keys = std::io::read_to_string(fs::File::from(reader)).unwrap();
        wait_for_exit(&container);
        container.destroy().unwrap();
        keys
    };
    let (own, callers) = (keys(false), keys(true));
    keyctl(libc::KEYCTL_INVALIDATE, key, 0);
    assert!(!own.contains("nacre-test-key"), "{own}");
    assert!(callers.contains("nacre-test-key"), "{callers}");
    // The container's later processes are to search it.
    let own_keyring = own.lines().find(|line| line.contains(" _ses.nacre-test-"));
    assert!(
        own_keyring.is_some_and(|line| line.contains(" 3f1b0000 ")),
        "{own}"
    );
    Ok(())
}

fn a_label_that_cannot_be_set_is_named() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    for (field, value, enabled, lacking) in [
        (
            "apparmorProfile",
            "no-such-profile",
            "/sys/kernel/security/apparmor",
            "(is AppArmor enabled on this kernel?)",
        ),
        (
            "selinuxLabel",
            "no:such:label",
            "/sys/fs/selinux/enforce",
            "(is SELinux enabled on this kernel?)",
        ),
    ] {
        bundle.config["process"][field] = json!(value);
        let (message, status) = bundle.error();
        let words = format!("process.{field}: can't set {value:?}: ");
        assert!(message.starts_with(&words), "{message}");
        if !Path::new(enabled).exists() {
            assert!(message.ends_with(lacking), "{message}");
        }
        assert_eq!(status, 1);
        bundle.config["process"][field] = json!("");
    }
    if Path::new("/sys/kernel/security/apparmor").exists() {
        bundle.config["process"]["apparmorProfile"] = json!("unconfined");
        bundle.output();
    }
    Ok(())
}

fn streams_can_be_opened_by_the_user() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("echo out > /dev/stdout && echo err > /dev/stderr");
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    let null = owner(Path::new("/dev/null"));
    let read = bundle.beside("read");
    fs::write(&read, "").unwrap();

    let mut stdio = null_stdio();
    let (from, to) = nix::unistd::pipe().unwrap();
    stdio.stdin = fs::File::open(&read).unwrap().into();
    stdio.stdout = to;
    let mut container = bundle.create(stdio).unwrap();
    container.start().unwrap();
    let output = std::io::read_to_string(fs::File::from(from)).unwrap();
    assert_eq!(output, "out\n");
    assert_eq!(wait_for_exit(&container), 0);
    container.destroy().unwrap();
    assert_eq!(owner(Path::new("/dev/null")), null, "it is everyone's");
    assert_eq!(owner(&read), 0, "it may be anyone's");
    Ok(())
}

fn the_personality_is_set() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("uname -m");
    assert_eq!(bundle.output(), "x86_64\n");
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    assert_eq!(bundle.output(), "i686\n");
    Ok(())
}
