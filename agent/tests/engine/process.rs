//! `process`: what the workload finds itself to be.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, leak, null_stdio, wait_for_exit};

tests![
    arguments_and_environment_are_as_given,
    home_comes_from_passwd,
    the_user_is_as_given,
    cwd_is_made_and_entered,
    a_cwd_that_the_user_may_not_enter_will_do,
    the_five_capability_sets_are_as_given,
    a_capability_that_is_not_held_is_named,
    no_capabilities_means_none,
    capabilities_outlive_the_change_of_user,
    rlimits_are_set,
    a_limit_that_cannot_be_set_is_named,
    no_new_privileges_is_set,
    oom_score_adj_is_set,
    signals_are_as_in_a_fresh_session,
    the_personality_is_set,
    cve_2024_21626_no_descriptor_leaks,
    descriptors_are_preserved_up_to_the_number,
    what_the_caller_did_not_pass_is_not_preserved,
    the_session_keyring_is_its_own,
    a_label_that_cannot_be_set_is_named,
    streams_can_be_opened_by_the_user,
];

fn arguments_and_environment_are_as_given() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("");
    bundle.config["process"]["args"] = json!([
        "sh",
        "-c",
        "for a; do echo \"<$a>\"; done",
        "sh",
        "one two",
        "",
        "*",
        "é\n"
    ]);
    assert_eq!(bundle.output(), "<one two>\n<>\n<*>\n<é\n>\n");

    bundle.config["process"]["args"] = json!(["env"]);
    bundle.config["process"]["env"] = json!(["PATH=/bin", "A=1", "B=x=y z", "A=2", "HOME=/h"]);
    assert_eq!(bundle.output(), "PATH=/bin\nB=x=y z\nA=2\nHOME=/h\n");
    Ok(())
}

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

fn the_user_is_as_given() -> Result<(), Skipped> {
    let script = "grep -E '^(Uid|Gid|Groups)' /proc/self/status; umask";
    let mut bundle = Bundle::new(script);
    assert_eq!(
        bundle.output(),
        "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n0022\n"
    );
    bundle.config["process"]["user"] =
        json!({"uid": 1000, "gid": 1001, "additionalGids": [10, 20], "umask": 0o27});
    assert_eq!(
        bundle.output(),
        "Uid:\t1000\t1000\t1000\t1000\nGid:\t1001\t1001\t1001\t1001\nGroups:\t10 20 \n0027\n"
    );
    Ok(())
}

fn cwd_is_made_and_entered() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("/bin/readlink /proc/self/cwd");
    bundle.config["process"]["cwd"] = json!("/new/directory");
    assert_eq!(bundle.output(), "/new/directory\n");
    assert!(bundle.at("new/directory").is_dir());
    bundle.config["process"]["cwd"] = json!("/dev/shm");
    assert_eq!(bundle.output(), "/dev/shm\n");
    // A program may be named relative to it.
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

fn the_five_capability_sets_are_as_given() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("");
    // A user other than root shows them best: root gets what it may have at every exec.
    bundle.config["process"]["args"] = json!(["grep", "^Cap", "/proc/self/status"]);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bundle.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYSLOG"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL", "CAP_CHOWN"],
        "ambient": ["CAP_KILL"],
    });
    let expected = [
        ("CapInh", "21"),
        ("CapPrm", "20"),
        ("CapEff", "20"),
        ("CapBnd", "400002021"),
        ("CapAmb", "20"),
    ];
    let expected: Vec<_> = expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    assert_eq!(capability_sets(&bundle), expected);
    Ok(())
}

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
    // Without ambient ones, a user's program starts with none, but may gain those of its file
    // up to the bounding set: it is as the kernel has it.
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

fn rlimits_are_set() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("cat /proc/self/limits");
    bundle.config["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_STACK", "soft": 1048576, "hard": 4194304},
    ]);
    let output = bundle.output();
    for line in [
        "Max open files 100 200",
        "Max core file size 0 0",
        "Max stack size 1048576 4194304",
    ] {
        let words = |s: &str| {
            s.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert!(
            output.lines().any(|l| words(l).starts_with(line)),
            "{line}\n{output}"
        );
    }
    Ok(())
}

fn a_limit_that_cannot_be_set_is_named() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    // Over fs.nr_open, which not even root may pass.
    let limit = u64::MAX - 1;
    bundle.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": limit}]);
    let (message, status) = bundle.error();
    let expected = format!("can't set RLIMIT_NOFILE to 1:{limit}: Operation not permitted");
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(status, 1);
    Ok(())
}

fn no_new_privileges_is_set() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("grep NoNewPrivs /proc/self/status");
    assert_eq!(bundle.output(), "NoNewPrivs:\t1\n");
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    assert_eq!(bundle.output(), "NoNewPrivs:\t0\n");
    Ok(())
}

fn oom_score_adj_is_set() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("cat /proc/self/oom_score_adj");
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(bundle.output(), own);
    bundle.config["process"]["oomScoreAdj"] = json!(700);
    assert_eq!(bundle.output(), "700\n");
    Ok(())
}

fn signals_are_as_in_a_fresh_session() -> Result<(), Skipped> {
    let bundle = Bundle::new("exec grep -E '^Sig(Blk|Ign)' /proc/self/status");
    // As nohup would have it, and as a user of signalfd does.
    let ignored = [libc::SIGHUP, libc::SIGRTMAX()];
    for signal in ignored {
        // SAFETY: no handler is installed by this.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let mut blocked = nix::sys::signal::SigSet::empty();
    blocked.add(nix::sys::signal::Signal::SIGCHLD);
    blocked.thread_block().unwrap();
    let output = bundle.output();
    blocked.thread_unblock().unwrap();
    for signal in ignored {
        // SAFETY: as above.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    assert_eq!(
        output,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
    Ok(())
}

// CVE-2024-21626.
fn cve_2024_21626_no_descriptor_leaks() -> Result<(), Skipped> {
    // Of several kinds, and one with a number that no loop would come to.
    let file = fs::File::open("/etc/passwd").unwrap();
    let directory = fs::File::open("/").unwrap();
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    // SAFETY: the call touches no memory, and nothing else knows of what it makes.
    let far = unsafe { OwnedFd::from_raw_fd(libc::fcntl(0, libc::F_DUPFD, 1000)) };
    leak(&file);
    leak(&directory);
    leak(&reader);
    leak(&socket);
    leak(&far);
    let mut bundle = Bundle::new("");
    bundle.config["process"]["args"] = json!(["ls", "/proc/self/fd"]);
    // The last one is that of the directory being listed.
    assert_eq!(bundle.output(), "0\n1\n2\n3\n");
    Ok(())
}

/// Makes descriptors from 3 up as a caller passes them, and closes them when dropped.
struct Passed(std::ops::Range<i32>);

impl Passed {
    /// Unless there is something of this program's already.
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
    // The fifth is that of the directory being listed.
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
    // A key that only who possesses it can see.
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
    // To be searched by later processes of the container.
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
