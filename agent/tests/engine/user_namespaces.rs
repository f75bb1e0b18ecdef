//! User namespaces: new ones with mapped ids, and joined ones.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nacre_agent::container::{ExecOptions, Stdio};
use nix::mount::MsFlags;
use nix::unistd::pipe;
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, has, mounted, null_stdio, text, wait_for_exit};
use crate::exec;
use crate::terminal::read_all;

tests![
    the_root_may_be_out_of_reach_of_others,
    limits_above_the_callers_are_set,
    every_namespace_is_the_new_ones,
    devices_are_the_callers,
    mounts_do_not_reach_the_caller,
    sysctls_are_set_by_its_root,
    an_id_that_is_not_mapped_is_refused,
    the_clock_is_set_off_by_its_root,
    namespaces_of_others_are_joined_before,
    one_is_joined,
    one_is_joined_beside_namespaces_of_the_callers,
    what_a_source_forbids_stays_so,
    one_with_other_mappings_is_refused,
    streams_belong_to_the_mapped_user,
    a_process_is_started_in_it,
    a_process_has_a_terminal_in_it,
    a_failing_process_is_told_of,
];

/// The id outside that the container's id 0 is mapped to.
const FIRST: u32 = 200_000;

/// Makes a container in a user namespace, whose files belong to its root.
pub(crate) fn mapped(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    give(&bundle.at(""), FIRST);
    bundle.namespace(json!({"type": "user"}));
    for field in ["uidMappings", "gidMappings"] {
        bundle.config["linux"][field] = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
    }
    bundle
}

fn give(path: &Path, id: u32) {
    nix::unistd::fchownat(
        nix::fcntl::AT_FDCWD,
        path,
        Some(id.into()),
        Some(id.into()),
        nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), id);
        }
    }
}

fn the_root_may_be_out_of_reach_of_others() -> Result<(), Skipped> {
    let mut bundle = mapped("cat /bound/file; cat /single");
    let private = bundle.beside("private");
    fs::create_dir(&private).unwrap();
    fs::write(private.join("file"), "bound\n").unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o755)).unwrap();
    // The bundle's own directory, which is on both paths.
    fs::set_permissions(bundle.beside(""), fs::Permissions::from_mode(0o700)).unwrap();
    let source = text(&private).to_owned();
    bundle.mount(json!({"destination": "/bound", "source": source, "options": ["rbind", "ro"]}));
    bundle.mount(json!({
        "destination": "/single", "source": text(&private.join("file")), "options": ["bind"],
    }));
    assert_eq!(bundle.output(), "bound\nbound\n");
    bundle.config["root"]["readonly"] = json!(true);
    bundle.config["process"]["args"] = json!(["sh", "-c", "touch /x || echo read-only"]);
    assert_eq!(bundle.output(), "read-only\n");
    Ok(())
}

fn limits_above_the_callers_are_set() -> Result<(), Skipped> {
    let mut bundle = mapped("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj");
    bundle.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    bundle.config["process"]["oomScoreAdj"] = json!(321);
    assert_eq!(bundle.output(), "100\n200\n321\n");
    // A limit above this process's own, which only its privileges allow.
    let limit = nix::sys::resource::Resource::RLIMIT_CORE;
    let (soft, hard) = nix::sys::resource::getrlimit(limit).unwrap();
    let held = caps::read(None, caps::CapSet::Effective).unwrap();
    if !held.contains(&caps::Capability::CAP_SYS_RESOURCE) {
        return Err(Skipped("this process can't raise its limits"));
    }
    nix::sys::resource::setrlimit(limit, 0, 1 << 20).unwrap();
    bundle.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_CORE", "soft": 1 << 20, "hard": 1 << 21}]);
    bundle.config["process"]["args"] = json!(["grep", "core", "/proc/self/limits"]);
    let output = bundle.output();
    nix::sys::resource::setrlimit(limit, soft, hard).unwrap();
    assert!(output.contains(" 1048576 "), "{output}");
    assert!(output.contains(" 2097152 "), "{output}");
    Ok(())
}

fn every_namespace_is_the_new_ones() -> Result<(), Skipped> {
    let mut bundle = mapped(
        "hostname; cat /proc/self/cgroup; ip -o addr show lo; echo $$; ls /dev/mqueue /sys/class/net",
    );
    bundle.namespace(json!({"type": "cgroup"}));
    bundle.config["hostname"] = json!("inside");
    let output = bundle.output();
    assert!(output.starts_with("inside\n"), "{output}");
    assert!(output.contains("0::/\n"), "{output}");
    assert!(output.contains("127.0.0.1"), "{output}");
    assert!(output.contains("\n1\n"), "{output}");
    assert!(output.ends_with("lo\n"), "{output}");
    Ok(())
}

fn devices_are_the_callers() -> Result<(), Skipped> {
    let script = "for d in null zero full random urandom tty; do stat -c %F:%t:%T /dev/$d; done; \
                  echo x > /dev/null; head -c 3 /dev/zero | wc -c";
    let mut bundle = mapped(script);
    let expected: String = ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]
        .map(|number| format!("character special file:{number}\n"))
        .concat()
        + "3\n";
    assert_eq!(bundle.output(), expected);
    // In the root itself, twice: what the first run leaves isn't a device.
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    for _ in 0..2 {
        assert_eq!(bundle.output(), expected);
    }
    // A device that the caller has under another number.
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]);
    let (message, _) = bundle.error();
    assert!(message.contains("the caller's /dev/null"), "{message}");
    Ok(())
}

fn mounts_do_not_reach_the_caller() -> Result<(), Skipped> {
    for propagation in ["", "shared", "private", "slave"] {
        let mut bundle = mapped("mount -t tmpfs t /bound && mount -t tmpfs t /mnt; echo $?");
        fs::create_dir(bundle.at("mnt")).unwrap();
        give(&bundle.at("mnt"), FIRST);
        bundle.all_capabilities();
        bundle.config["linux"]["rootfsPropagation"] = json!(propagation);
        let source = bundle.beside("source");
        fs::create_dir(&source).unwrap();
        bundle.mount(json!({
            "destination": "/bound", "source": text(&source), "options": ["rbind", "rshared"],
        }));
        let mut running = bundle.start();
        running.wait_for("0\n");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(text(&source)), "{mounts}");
        assert!(!mounts.contains(text(&bundle.at("mnt"))), "{mounts}");
        assert_eq!(running.wait().status, 0);
    }
    Ok(())
}

fn sysctls_are_set_by_its_root() -> Result<(), Skipped> {
    let mut bundle = mapped("cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "7"});
    assert_eq!(bundle.output(), "7\n");
    Ok(())
}

fn an_id_that_is_not_mapped_is_refused() -> Result<(), Skipped> {
    let mut bundle = mapped("true");
    bundle.config["process"]["user"]["uid"] = json!(65536);
    assert_eq!(
        bundle.error().0,
        "process.user.uid: 65536 isn't mapped by linux.uidMappings"
    );
    let bundle = mapped("sleep 60");
    let mut running = bundle.start();
    let mut process = bundle.config["process"].clone();
    process["user"]["gid"] = json!(65536);
    let options = ExecOptions::new(null_stdio());
    let error = exec::start(&bundle, running.container(), &process, options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "process.user.gid: 65536 isn't mapped by linux.gidMappings"
    );
    Ok(())
}

fn the_clock_is_set_off_by_its_root() -> Result<(), Skipped> {
    let mut bundle = mapped("cat /proc/uptime");
    bundle.namespace(json!({"type": "time"}));
    bundle.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}});
    let output = bundle.output();
    let uptime: f64 = output.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1e9, "{output}");
    Ok(())
}

const LIST: &str = "for n in user pid net ipc uts mnt; do readlink /proc/self/ns/$n; done";

/// Returns the lines that two lists have in common.
fn common(a: &str, b: &str) -> Vec<String> {
    let same = a.lines().zip(b.lines()).filter(|(a, b)| a == b);
    same.map(|(a, _)| a.split(':').next().unwrap().to_owned())
        .collect()
}

fn namespaces_of_others_are_joined_before() -> Result<(), Skipped> {
    let host = Bundle::new(&format!("{LIST}; echo .; sleep 60"));
    let mut running = host.start();
    running.wait_for(".\n");
    let pid = running.container().pid();
    let mut guest = mapped(LIST);
    // They belong to the caller's user namespace, where the container's root has no rights.
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("pid", "pid")] {
        guest.namespace(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
    }
    // These can't be mounted anew then.
    let mounts = guest.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| !["sysfs", "mqueue", "proc"].contains(&m["type"].as_str().unwrap()));
    guest.mount(json!({"destination": "/proc", "source": "/proc", "options": ["rbind"]}));
    guest.config["linux"]["maskedPaths"] = json!([]);
    guest.config["linux"]["readonlyPaths"] = json!([]);
    let script = "for n in user pid net ipc uts mnt; do echo $n; done";
    guest.config["process"]["args"] = json!(["sh", "-c", script]);
    let mut inside = guest.created();
    let inner = inside.container().pid();
    let link = |pid: nix::unistd::Pid, kind: &str| {
        fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
    };
    for kind in ["user", "pid", "net", "ipc", "uts", "mnt"] {
        let joined = ["pid", "net", "ipc"].contains(&kind);
        assert_eq!(link(inner, kind) == link(pid, kind), joined, "{kind}");
    }
    inside.container().start().unwrap();
    assert_eq!(inside.wait().status, 0);
    Ok(())
}

fn one_is_joined() -> Result<(), Skipped> {
    let host = mapped(&format!("{LIST}; echo .; sleep 60"));
    let mut running = host.start();
    running.wait_for(".\n");
    let pid = running.container().pid();
    let ns = |file: &str| format!("/proc/{pid}/ns/{file}");

    let mut guest = mapped(&format!("{LIST}; id -u"));
    guest.namespace(json!({"type": "user", "path": ns("user")}));
    let output = guest.output();
    assert_eq!(common(&running.stdout(), &output), ["user"]);
    assert!(output.ends_with("\n0\n"), "{output}");

    // With other namespaces of the container too, and without id mappings, which Podman writes like
    // this.
    guest.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    guest.config["linux"]["gidMappings"] = json!([]);
    for (kind, file) in [
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("pid", "pid"),
    ] {
        guest.namespace(json!({"type": kind, "path": ns(file)}));
    }
    guest.config["hostname"] = json!("");
    let expected = ["user", "pid", "net", "ipc", "uts"];
    assert_eq!(common(&running.stdout(), &guest.output()), expected);
    let (message, status) = {
        guest.config["process"]["args"] = json!(["nothing"]);
        guest.error()
    };
    assert!(message.contains("executable file not found"), "{message}");
    assert_eq!(status, 127);
    Ok(())
}

/// The right to join those is lost with the caller's user namespace.
fn one_is_joined_beside_namespaces_of_the_callers() -> Result<(), Skipped> {
    let host = mapped("echo .; sleep 60");
    let mut running = host.start();
    running.wait_for(".\n");
    let path = format!("/proc/{}/ns/user", running.container().pid());
    let mut guest = mapped(LIST);
    guest.namespace(json!({"type": "user", "path": path}));
    guest.namespace(json!({"type": "network", "path": "/proc/self/ns/net"}));
    // sysfs is of the network namespace, and can't be mounted anew.
    let mounts = guest.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["type"] != "sysfs");
    let links = [path.as_str(), "/proc/self/ns/net"].map(|path| fs::read_link(path).unwrap());
    let output = guest.output();
    for link in links {
        assert!(output.lines().any(|line| line == text(&link)), "{output}");
    }
    Ok(())
}

/// As it is for the root of a user namespace whose mounts come from the one above.
fn what_a_source_forbids_stays_so() -> Result<(), Skipped> {
    let mut bundle = mapped("cat /proc/self/mountinfo");
    let source = bundle.beside("source");
    let below = source.join("below");
    let mount = |at: &Path, flags| {
        fs::create_dir(at).unwrap();
        nix::mount::mount(Some("t"), at, Some("tmpfs"), flags, None::<&str>).unwrap();
    };
    mount(&source, MsFlags::MS_NOSUID);
    mount(&below, MsFlags::MS_NODEV);
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
    nix::mount::mount(None::<&str>, &source, None::<&str>, flags, None::<&str>).unwrap();
    let options = ["rbind", "rw", "suid", "rdev", "noexec"];
    bundle.mount(json!({"destination": "/x", "source": "source", "options": options}));
    let outcome = bundle.try_run();
    nix::mount::umount2(&source, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let seen = outcome.unwrap().stdout;
    let (own, below) = (mounted(&seen, "/x").0, mounted(&seen, "/x/below").0);
    for option in ["ro", "nosuid", "noexec"] {
        assert!(has(&own, option), "{own}");
    }
    assert!(has(&below, "nodev"), "{below}");
    Ok(())
}

fn one_with_other_mappings_is_refused() -> Result<(), Skipped> {
    let host = mapped("sleep 60");
    let mut running = host.start();
    let pid = running.container().pid();
    let mut guest = mapped("true");
    guest.namespace(json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
    guest.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    assert_eq!(
        guest.error().0,
        "linux.gidMappings: the user namespace that the container joins has other mappings"
    );
    guest.namespace(json!({"type": "user", "path": "/proc/self/ns/net"}));
    let (message, _) = guest.error();
    let expected = "can't join the user namespace of /proc/self/ns/net: Invalid argument";
    assert!(message.starts_with(expected), "{message}");
    Ok(())
}

fn streams_belong_to_the_mapped_user() -> Result<(), Skipped> {
    let mut bundle = mapped("echo out > /dev/stdout");
    bundle.config["process"]["user"] = json!({"uid": 9, "gid": 9});
    let (from, to) = pipe().unwrap();
    let stdio = Stdio {
        stdout: to,
        ..null_stdio()
    };
    let mut container = bundle.create(stdio).unwrap();
    container.start().unwrap();
    let output = std::io::read_to_string(File::from(from)).unwrap();
    assert_eq!((output.as_str(), wait_for_exit(&container)), ("out\n", 0));
    container.destroy().unwrap();
    Ok(())
}

fn a_process_is_started_in_it() -> Result<(), Skipped> {
    let mut bundle = mapped(&format!("{LIST}; echo .; sleep 60"));
    bundle.namespace(json!({"type": "time"}));
    bundle.config["process"]["oomScoreAdj"] = json!(77);
    let mut running = bundle.start();
    running.wait_for(".\n");
    let script = format!(
        "{LIST}; echo .; id -u; cat /proc/self/oom_score_adj; pwd; \
                          readlink /proc/self/ns/time"
    );
    let seen = exec::output(&bundle, &mut running, &script);
    let own = fs::read_link("/proc/self/ns/time").unwrap();
    let (inside, time) = seen.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(inside, format!("{}0\n77\n/", running.stdout()));
    assert_ne!(Path::new(time), own);
    // As another user, who may open the streams.
    let mut process = bundle.config["process"].clone();
    process["user"] = json!({"uid": 3, "gid": 4, "additionalGids": [5]});
    process["args"] = json!(["sh", "-c", "id -u; : >> /dev/stdout && id -G; echo $0"]);
    let outcome = exec::run(&bundle, &mut running, &process);
    assert_eq!(outcome.stdout, "3\n4 5\nsh\n", "{outcome:?}");
    Ok(())
}

fn a_process_has_a_terminal_in_it() -> Result<(), Skipped> {
    let bundle = mapped("sleep 60");
    let mut running = bundle.start();
    let mut process = bundle.config["process"].clone();
    process["terminal"] = json!(true);
    process["user"] = json!({"uid": 5, "gid": 5});
    process["args"] = json!([
        "sh",
        "-c",
        "readlink /proc/self/fd/0; stat -c %u /dev/pts/0"
    ]);
    let options = ExecOptions::new(null_stdio());
    let executed = exec::start(&bundle, running.container(), &process, options).unwrap();
    assert_eq!(exec::wait(&executed), 0);
    let shown = read_all(executed.terminal.unwrap());
    assert_eq!(shown, "/dev/pts/0\n5\n");
    Ok(())
}

fn a_failing_process_is_told_of() -> Result<(), Skipped> {
    let bundle = mapped("sleep 60");
    let mut running = bundle.start();
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["nothing"]);
    let options = ExecOptions::new(null_stdio());
    let error = exec::start(&bundle, running.container(), &process, options).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.exit_status()),
        (
            r#"exec: "nothing": executable file not found in $PATH"#,
            127
        )
    );
    Ok(())
}
