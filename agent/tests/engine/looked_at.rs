//! What a process of the engine's has open whenever the image has a say in what is looked for:
//! another process traces all that it does, and looks at its descriptors before each system call
//! that takes a path in the container's root.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nacre_agent::container::{Container, ExecOptions, Options, config};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, leak, null_stdio};
use crate::user_namespaces;

tests![
    nothing_of_the_host_is_open_while_paths_of_the_image_are_looked_for,
    nor_with_a_terminal,
    nor_with_a_user_namespace,
    nor_with_hooks,
    nor_with_a_filter,
    nor_in_a_pid_namespace_of_others,
    nor_without_a_mount_namespace,
];

/// What is to be kept open for the workload, from descriptor 3 on.
const PRESERVED: u32 = 1;

/// System calls that take a path, and which of their arguments it is, and its directory.
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
    /// How often which path was looked for.
    paths: BTreeMap<String, u32>,
    /// What should not have been open.
    found: Vec<String>,
}

/// Creates, starts and executes in another process that is traced, which `set` prepares.
fn trace(bundle: &Bundle, set: impl FnOnce(&mut Options<'_>)) -> Seen {
    let spec = config::load(bundle.config.to_string().as_bytes()).unwrap();
    // SAFETY: the tests have one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                ptrace::traceme().unwrap();
                raise(Signal::SIGSTOP).unwrap();
                live(bundle, spec, set);
            }));
            // SAFETY: it ends here.
            unsafe { libc::_exit(i32::from(status.is_err())) }
        }
        ForkResult::Parent { child } => watch(child),
    }
}

/// The whole life of a container with a further process.
fn live(bundle: &Bundle, mut spec: oci_spec::runtime::Spec, set: impl FnOnce(&mut Options<'_>)) {
    config::resolve_paths(&mut spec, bundle.directory());
    let preserved = fs::File::open("/dev/null").unwrap();
    // SAFETY: nothing owns descriptor 3 that is used here.
    assert_eq!(unsafe { libc::dup2(preserved.as_raw_fd(), 3) }, 3);
    leak(&preserved);
    let mut options = Options::new("nacre-test-traced", bundle.directory(), null_stdio());
    options.preserve_fds = PRESERVED;
    set(&mut options);
    let mut container = Container::create(&spec, options).unwrap();
    container.start().unwrap();
    let mut process = spec.process().clone().unwrap();
    process.set_args(Some(vec!["true".into()]));
    let mut options = ExecOptions::new(null_stdio());
    options.preserve_fds = PRESERVED;
    let executed = container.exec(&spec, &process, options).unwrap();
    waitpid(executed.pid, None).unwrap();
    container.destroy().unwrap();
}

/// Traces a process and all that come of it, to the end of all.
fn watch(first: Pid) -> Seen {
    use ptrace::Options as O;
    let mut seen = Seen::default();
    let host = root_of(Pid::this()).unwrap();
    waitpid(first, None).unwrap();
    let options = O::PTRACE_O_TRACESYSGOOD
        | O::PTRACE_O_TRACEFORK
        | O::PTRACE_O_TRACEVFORK
        | O::PTRACE_O_TRACECLONE
        | O::PTRACE_O_TRACEEXEC
        | O::PTRACE_O_EXITKILL;
    ptrace::setoptions(first, options).unwrap();
    ptrace::syscall(first, None).unwrap();
    loop {
        let (pid, signal) = match waitpid(None, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Exited(pid, status) if pid == first => {
                assert_eq!(status, 0, "the engine failed, traced");
                return seen;
            }
            WaitStatus::PtraceSyscall(pid) => {
                look(pid, host, &mut seen);
                (pid, None)
            }
            WaitStatus::Stopped(pid, Signal::SIGSTOP) => (pid, None),
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            WaitStatus::PtraceEvent(pid, _, _) => (pid, None),
            _ => continue,
        };
        // It may have been killed meanwhile.
        let _ = ptrace::syscall(pid, signal);
    }
}

fn root_of(pid: Pid) -> Option<(u64, u64)> {
    let root = fs::metadata(format!("/proc/{pid}/root")).ok()?;
    Some((root.dev(), root.ino()))
}

/// At a system call's entry: if it takes a path of the image's, looks at the descriptors.
fn look(pid: Pid, host: (u64, u64), seen: &mut Seen) {
    let Ok(registers) = ptrace::getregs(pid) else {
        return;
    };
    // At the exit there is another value.
    if registers.rax as i64 != -i64::from(libc::ENOSYS) {
        return;
    }
    let number = registers.orig_rax as i64;
    let Some((_, path, directory)) = LOOKING.iter().find(|(call, ..)| *call == number) else {
        return;
    };
    let argument = |index: usize| match index {
        0 => registers.rdi,
        _ => registers.rsi,
    };
    let of_working_directory = directory.is_none_or(|d| argument(d) as i32 == libc::AT_FDCWD);
    let path = read_string(pid, argument(*path));
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

fn read_string(pid: Pid, address: u64) -> String {
    let mut bytes = Vec::new();
    while let Ok(word) = ptrace::read(pid, (address + bytes.len() as u64) as *mut c_void) {
        for byte in word.to_ne_bytes() {
            match byte {
                0 => return String::from_utf8(bytes).unwrap(),
                byte => bytes.push(byte),
            }
        }
    }
    panic!("{pid} looks for a path that can't be read");
}

/// What is open there and should not be: more than the standard streams, what is to be preserved,
/// one line, and what a hook has for its streams.
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

/// Traces a container's life, in which at least these paths are looked for.
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

/// Both processes look for a home, a directory, and a program.
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
