//! The descriptors that the engine's processes have open while they look up paths that the image
//! controls: another process traces everything they do, and checks their descriptors before each
//! system call that takes a path in the container's root.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nacre_agent::container::{Container, ExecOptions, Options, config};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, leak, null_stdio};
use crate::{traced, user_namespaces};

tests![
    nothing_of_the_host_is_open_while_paths_of_the_image_are_looked_for,
    nor_with_a_terminal,
    nor_with_a_user_namespace,
    nor_with_hooks,
    nor_with_a_filter,
    nor_in_a_pid_namespace_of_others,
    nor_without_a_mount_namespace,
];

/// How many descriptors are preserved for the workload, from descriptor 3 on.
const PRESERVED: u32 = 1;

/// System calls that take a path: which of their arguments it is, and which its directory.
const LOOKING: [(i64, usize, Option<usize>); 12] = [
    (libc::SYS_execve, 0, None),
    (libc::SYS_execveat, 1, Some(0)),
    (libc::SYS_open, 0, None),
    (libc::SYS_openat, 1, Some(0)),
    (libc::SYS_openat2, 1, Some(0)),
    (libc::SYS_stat, 0, None),
    (libc::SYS_newfstatat, 1, Some(0)),
    (libc::SYS_statx, 1, Some(0)),
    (libc::SYS_access, 0, None),
    (libc::SYS_faccessat, 1, Some(0)),
    (libc::SYS_faccessat2, 1, Some(0)),
    (libc::SYS_chdir, 0, None),
];

/// What was seen of all processes.
#[derive(Default)]
struct Seen {
    /// How often each path was looked up.
    paths: BTreeMap<String, u32>,
    /// Descriptors that should not have been open.
    found: Vec<String>,
}

/// Creates, starts and executes in another, traced process, with options that `set` sets.
fn trace(bundle: &Bundle, set: impl FnOnce(&mut Options<'_>)) -> Seen {
    let spec = config::load(bundle.config.to_string().as_bytes()).unwrap();
    let host = root_of(Pid::this()).unwrap();
    let mut seen = Seen::default();
    traced::run(
        || live(bundle, spec, set),
        |call| look(call, host, &mut seen),
    );
    seen
}

/// Runs the whole life of a container with a further process.
fn live(bundle: &Bundle, mut spec: oci_spec::runtime::Spec, set: impl FnOnce(&mut Options<'_>)) {
    config::resolve_paths(&mut spec, bundle.directory());
    let preserved = fs::File::open("/dev/null").unwrap();
    // SAFETY: descriptor 3 has no owner that is used here.
    assert_eq!(unsafe { libc::dup2(preserved.as_raw_fd(), 3) }, 3);
    leak(&preserved);
    let mut options = Options::new("nacre-test-traced", bundle.directory(), null_stdio());
    options.preserve_fds = PRESERVED;
    set(&mut options);
    // SAFETY: the test's other threads change nothing that the child needs; if it hangs, the test fails.
    let mut container = unsafe { Container::create(&spec, options) }.unwrap();
    container.start().unwrap();
    let mut process = spec.process().clone().unwrap();
    process.set_args(Some(vec!["true".into()]));
    let mut options = ExecOptions::new(null_stdio());
    options.preserve_fds = PRESERVED;
    // SAFETY: the test's other threads change nothing that the child needs; if it hangs, the test fails.
    let executed = unsafe { container.exec(&spec, &process, options) }.unwrap();
    waitpid(executed.pid, None).unwrap();
    container.destroy().unwrap();
}

fn root_of(pid: Pid) -> Option<(u64, u64)> {
    let root = fs::metadata(format!("/proc/{pid}/root")).ok()?;
    Some((root.dev(), root.ino()))
}

/// At a system call's entry: if it takes a path that the image controls, checks the descriptors.
fn look(call: &traced::Call, host: (u64, u64), seen: &mut Seen) {
    let pid = call.process;
    let Some((_, path, directory)) = LOOKING.iter().find(|(number, ..)| *number == call.number)
    else {
        return;
    };
    let of_working_directory =
        directory.is_none_or(|directory| call.arguments[directory] as i32 == libc::AT_FDCWD);
    let path = call.string(*path);
    let is_the_engines = fs::read_link(format!("/proc/{pid}/exe"))
        .is_ok_and(|exe| exe == std::env::current_exe().unwrap());
    if !of_working_directory
        || !is_the_engines
        || path == "/"
        || root_of(pid).is_none_or(|root| root == host)
    {
        return;
    }
    for problem in open_in(pid) {
        seen.found
            .push(format!("{problem}, at the look for {path:?}"));
    }
    *seen.paths.entry(path).or_default() += 1;
}

/// Returns the descriptors that should not be open: those beyond the standard streams, the
/// preserved ones, one socket to the engine, and a hook's streams.
fn open_in(pid: Pid) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut lines = 0;
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let number: u32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(&path).unwrap_or_else(|_| PathBuf::from("gone"));
        let target = target.to_str().unwrap().to_owned();
        let is_directory = fs::metadata(&path).is_ok_and(|file| file.is_dir());
        match target.as_str() {
            _ if is_directory => {}
            _ if number < 3 + PRESERVED => continue,
            socket if socket.starts_with("socket:") => {
                lines += 1;
                if lines == 1 {
                    continue;
                }
            }
            other if other.starts_with("/memfd:hook") || other.starts_with("pipe:") => continue,
            _ => {}
        }
        found.push(format!("descriptor {number} is {target}"));
    }
    found
}

/// Traces a container's life, and fails unless at least these paths are looked up, with nothing
/// found.
fn assert_nothing_found(bundle: &Bundle, paths: &[(&str, u32)]) {
    let seen = trace(bundle, |_| {});
    assert!(seen.found.is_empty(), "{:#?}", seen.found);
    for (path, times) in paths {
        let found = seen.paths.get(*path).copied().unwrap_or(0);
        assert!(
            found >= *times,
            "{path}: {found} of {times} in {:?}",
            seen.paths
        );
    }
}

/// Both processes look up a home, a directory, and a program.
const PATHS: [(&str, u32); 4] = [
    ("/etc/passwd", 2),
    ("/tmp", 2),
    ("/bin/sleep", 2),
    ("/bin/true", 2),
];

fn bundle() -> Bundle {
    prepared(Bundle::new(""))
}

fn prepared(mut bundle: Bundle) -> Bundle {
    bundle.config["process"]["args"] = json!(["sleep", "20"]);
    bundle.config["process"]["cwd"] = json!("/tmp");
    let env = bundle.config["process"]["env"].as_array_mut().unwrap();
    env.retain(|variable| !variable.as_str().unwrap().starts_with("HOME="));
    bundle.config["linux"]["cgroupsPath"] =
        json!(format!("/nacre-test-traced-{}", std::process::id()));
    bundle
}

fn nothing_of_the_host_is_open_while_paths_of_the_image_are_looked_for() -> Result<(), Skipped> {
    assert_nothing_found(&bundle(), &PATHS);
    Ok(())
}

fn nor_with_a_terminal() -> Result<(), Skipped> {
    let mut bundle = bundle();
    bundle.config["process"]["terminal"] = json!(true);
    assert_nothing_found(&bundle, &PATHS);
    Ok(())
}

fn nor_with_a_user_namespace() -> Result<(), Skipped> {
    assert_nothing_found(&prepared(user_namespaces::mapped("")), &PATHS);
    Ok(())
}

fn nor_with_hooks() -> Result<(), Skipped> {
    let mut bundle = bundle();
    let hook = json!([{"path": "/bin/true"}]);
    bundle.config["hooks"] = json!({
        "createRuntime": hook, "createContainer": hook, "startContainer": hook,
    });
    assert_nothing_found(&bundle, &[("/bin/true", 3)]);
    Ok(())
}

fn nor_with_a_filter() -> Result<(), Skipped> {
    for no_new_privileges in [true, false] {
        let mut bundle = bundle();
        bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        assert_nothing_found(&bundle, &PATHS);
    }
    Ok(())
}

fn nor_in_a_pid_namespace_of_others() -> Result<(), Skipped> {
    let other = Bundle::new("sleep 60");
    let mut running = other.start();
    let path = format!("/proc/{}/ns/pid", running.container().pid());
    let mut bundle = bundle();
    bundle.namespace(json!({"type": "pid", "path": path}));
    assert_nothing_found(&bundle, &PATHS);
    Ok(())
}

fn nor_without_a_mount_namespace() -> Result<(), Skipped> {
    let mut bundle = bundle();
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace: &Value| namespace["type"] != "mount");
    bundle.config["mounts"] = json!([]);
    bundle.config["linux"]["maskedPaths"] = json!([]);
    bundle.config["linux"]["readonlyPaths"] = json!([]);
    fs::create_dir_all(bundle.at("tmp")).unwrap();
    assert!(Path::new(&bundle.at("tmp")).is_dir());
    assert_nothing_found(&bundle, &PATHS);
    Ok(())
}
