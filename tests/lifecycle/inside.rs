//! What somebody can try who has taken over a process of a VM: each attempt is made from inside each
//! thread of the sandbox process, the monitor and the file server, by way of a child that has what the
//! thread has.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use libc::c_long;
use nacre_tests::Case;
use nacre_tests::captive::{Argument, Call, Captive, Outcome};
use nacre_tests::vm::{self, Role};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

nacre_tests::tests![
    whoever_takes_over_a_process_gets_nowhere: Vm,
];

/// Where a file server has the container's root, but for the thread that serves it.
const ROOTFS: &str = "/rootfs";

/// What the main thread of the sandbox process may do: it serves commands and networks, watches the VM's
/// processes, and ends them.
const OF_THE_SANDBOX: [&str; 5] = [
    "a socket of unix",
    "a socket of netlink",
    "a socket of packet",
    "kill",
    "pidfd_open",
];

/// What a thread could try.
struct Attempt {
    what: String,
    calls: Vec<Call>,
    /// Whether it succeeds for root on every host.
    is_possible: bool,
}

fn attempt(what: impl Into<String>, calls: impl Into<Vec<Call>>) -> Attempt {
    Attempt {
        what: what.into(),
        calls: calls.into(),
        is_possible: true,
    }
}

impl Attempt {
    /// One that some hosts refuse even root, or that would need more to succeed.
    fn perhaps(self) -> Self {
        Self {
            is_possible: false,
            ..self
        }
    }
}

fn number(value: impl Into<c_long>) -> Argument {
    Argument::Number(value.into())
}

fn path(path: impl AsRef<Path>) -> Argument {
    let path = path.as_ref().to_str().unwrap();
    Argument::Bytes([path.as_bytes(), b"\0"].concat())
}

/// Returns an argument that points to integers.
fn words(words: &[u32]) -> Argument {
    Argument::Bytes(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

fn call(number: c_long, arguments: impl Into<Vec<Argument>>) -> Call {
    Call {
        number,
        arguments: arguments.into(),
    }
}

fn open(file: impl AsRef<Path>, flags: libc::c_int) -> Call {
    let here = number(libc::AT_FDCWD);
    call(libc::SYS_openat, [here, path(file), number(flags)])
}

/// Files of the host's, and devices.
fn files(case: &Case, thread: Pid) -> Vec<Attempt> {
    let marker = case.directory().join("of-the-host");
    let far_up = Path::new(&"../".repeat(40)).join(marker.strip_prefix("/").unwrap());
    let mut attempts = Vec::new();
    for (file, is_possible) in [
        (Path::new("/etc/passwd"), true),
        (Path::new("/proc/1/environ"), false),
        (Path::new("/proc/self/mem"), true),
        (Path::new("/dev/kvm"), false),
        (&marker, true),
        (&far_up, true),
    ] {
        attempts.push(Attempt {
            is_possible,
            ..attempt(
                format!("open {}", file.display()),
                [open(file, libc::O_RDONLY)],
            )
        });
    }
    for directory in ["/", ROOTFS] {
        let device = Path::new(directory).join(format!("device-{thread}"));
        let mode = libc::S_IFCHR | 0o666;
        let of_null = number(libc::makedev(1, 3) as c_long);
        let arguments = [number(libc::AT_FDCWD), path(&device), number(mode), of_null];
        let make = call(libc::SYS_mknodat, arguments);
        let calls = [make, open(&device, libc::O_RDWR)];
        attempts.push(attempt(format!("a device in {directory}"), calls).perhaps());
    }
    let handle = words(&[8, 1, 0, 0]);
    let of_handle = [number(libc::AT_FDCWD), handle.clone(), number(0)];
    let to_handle = [
        number(libc::AT_FDCWD),
        path("/"),
        handle,
        words(&[0]),
        number(0),
    ];
    let by_handle = call(libc::SYS_open_by_handle_at, of_handle);
    attempts.push(attempt("open by a handle", [by_handle]).perhaps());
    let handle = call(libc::SYS_name_to_handle_at, to_handle);
    attempts.push(attempt("the handle of a file", [handle]).perhaps());
    attempts
}

/// Sockets of all kinds.
fn sockets() -> Vec<Attempt> {
    let (stream, raw) = (libc::SOCK_STREAM, libc::SOCK_RAW);
    let kinds = [
        ("unix", libc::AF_UNIX, stream, true),
        ("inet", libc::AF_INET, stream, true),
        ("inet6", libc::AF_INET6, stream, false),
        ("netlink", libc::AF_NETLINK, raw, true),
        ("packet", libc::AF_PACKET, raw, false),
        ("vsock", libc::AF_VSOCK, stream, false),
        ("alg", libc::AF_ALG, libc::SOCK_SEQPACKET, false),
    ];
    let attempts = kinds.map(|(name, family, kind, is_possible)| {
        let arguments = [number(family), number(kind), number(0)];
        Attempt {
            is_possible,
            ..attempt(
                format!("a socket of {name}"),
                [call(libc::SYS_socket, arguments)],
            )
        }
    });
    attempts.into()
}

/// Other processes, among them one of the host's, and programs.
fn processes(other: &Child) -> Vec<Attempt> {
    let other = number(other.id());
    // Harmless where it arrives.
    let signal = number(libc::SIGCONT);
    let one = |what: &str, number, arguments: &[Argument]| {
        attempt(what, [call(number, arguments.to_vec())])
    };
    let piece = Argument::Bytes(vec![0; size_of::<libc::iovec>()]);
    let (none, single) = (number(0), number(1));
    let read = [
        other.clone(),
        piece.clone(),
        single.clone(),
        piece,
        single,
        none,
    ];
    vec![
        one(
            "trace",
            libc::SYS_ptrace,
            &[number(libc::PTRACE_SEIZE), other.clone()],
        ),
        one("kill", libc::SYS_kill, &[other.clone(), signal.clone()]),
        one(
            "tgkill",
            libc::SYS_tgkill,
            &[other.clone(), other.clone(), signal],
        ),
        one("pidfd_open", libc::SYS_pidfd_open, &[other, number(0)]),
        one("read memory", libc::SYS_process_vm_readv, &read),
        one("write memory", libc::SYS_process_vm_writev, &read),
        one("fork", libc::SYS_fork, &[]).perhaps(),
        one("execute", libc::SYS_execve, &[path("/bin/sh")]),
        one(
            "execute here",
            libc::SYS_execveat,
            &[number(libc::AT_FDCWD), path("/bin/sh")],
        ),
    ]
}

/// Mounts, roots and namespaces.
fn surroundings(other: &Child) -> Vec<Attempt> {
    let one = |what: &str, number, arguments: &[Argument]| {
        attempt(what, [call(number, arguments.to_vec())])
    };
    let pidfd = call(libc::SYS_pidfd_open, [number(other.id()), number(0)]);
    let flags = number(libc::CLONE_NEWUTS);
    let enter = call(libc::SYS_setns, [Argument::Returned, flags.clone()]);
    let tree = [number(libc::AT_FDCWD), path("/"), number(1)];
    vec![
        one(
            "mount",
            libc::SYS_mount,
            &[path("tmpfs"), path("/"), path("tmpfs")],
        ),
        one("open_tree", libc::SYS_open_tree, &tree),
        one("fsopen", libc::SYS_fsopen, &[path("tmpfs")]),
        one(
            "umount",
            libc::SYS_umount2,
            &[path("/proc"), number(libc::MNT_DETACH)],
        ),
        one("chroot", libc::SYS_chroot, &[path("/")]),
        one("pivot_root", libc::SYS_pivot_root, &[path("/"), path("/")]).perhaps(),
        one(
            "a namespace",
            libc::SYS_unshare,
            &[number(libc::CLONE_NEWUTS)],
        ),
        one("users", libc::SYS_unshare, &[number(libc::CLONE_NEWUSER)]).perhaps(),
        one("setns", libc::SYS_setns, &[number(0), flags]).perhaps(),
        attempt("enter a process's namespace", [pidfd, enter]),
    ]
}

/// Keys, and doors to much of the kernel.
fn kernel() -> Vec<Attempt> {
    let one = |what: &str, number, arguments: &[Argument]| {
        attempt(what, [call(number, arguments.to_vec())]).perhaps()
    };
    // KEYCTL_GET_KEYRING_ID and KEYCTL_READ of the session's keyring.
    let session = number(-3);
    let key = [
        path("user"),
        path("name"),
        path("value"),
        number(5),
        session.clone(),
    ];
    // BPF_MAP_CREATE of an array.
    let map = [number(0), words(&[2, 4, 4, 1, 0, 0, 0, 0]), number(32)];
    vec![
        one("a keyring", libc::SYS_keyctl, &[number(0), session.clone()]),
        one(
            "read keys",
            libc::SYS_keyctl,
            &[number(11), session.clone()],
        ),
        one("add a key", libc::SYS_add_key, &key),
        one(
            "ask for a key",
            libc::SYS_request_key,
            &[path("user"), path("name")],
        ),
        one(
            "io_uring",
            libc::SYS_io_uring_setup,
            &[number(1), words(&[0; 30])],
        ),
        one("bpf", libc::SYS_bpf, &map),
        one("userfaultfd", libc::SYS_userfaultfd, &[]),
        one(
            "perf",
            libc::SYS_perf_event_open,
            &[words(&[0; 32]), number(0), number(-1), number(-1)],
        ),
    ]
}

/// Returns everything that a thread could try.
fn attempts(case: &Case, thread: Pid, other: &Child) -> Vec<Attempt> {
    let mut attempts = files(case, thread);
    attempts.extend(sockets());
    attempts.extend(processes(other));
    attempts.extend(surroundings(other));
    attempts.extend(kernel());
    attempts
}

/// Returns whether the kernel has refused a call, or there is nothing there to be had. An error that
/// says that its arguments are wrong shows that nobody refused it.
fn is_refused(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Killed(signal) => signal == Signal::SIGSYS,
        Outcome::Failed(error) => matches!(
            error,
            Errno::ENOSYS
                | Errno::EPERM
                | Errno::EACCES
                | Errno::EROFS
                | Errno::ENOENT
                | Errno::ESRCH
                | Errno::EAFNOSUPPORT
        ),
        Outcome::Returned(_) => false,
    }
}

/// Starts a process of the host's that does nothing, in a mount namespace of its own.
fn bystander(case: &Case) -> Child {
    let mut sleep = case.mark(Command::new("sleep"));
    sleep.arg("1000").current_dir(case.directory());
    // SAFETY: the child makes only system calls before it executes.
    unsafe {
        sleep.pre_exec(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            Ok(mount(
                None::<&str>,
                "/",
                None::<&str>,
                private,
                None::<&str>,
            )?)
        })
    };
    sleep.spawn().unwrap()
}

fn threads(process: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let named = threads.map(|thread| thread.unwrap().file_name());
    let pid = |name: std::ffi::OsString| name.to_str().unwrap().parse().unwrap();
    named.map(|name| Pid::from_raw(pid(name))).collect()
}

fn whoever_takes_over_a_process_gets_nowhere(case: &Case) {
    File::create(case.directory().join("of-the-host")).unwrap();
    let [mut host, mut other] = [bystander(case), bystander(case)];
    // The attempts are real ones: whom nothing confines succeeds.
    let thread = Pid::from_raw(host.id() as i32);
    let free = Captive::take(case, thread);
    for attempt in attempts(case, thread, &other) {
        let outcome = free.attempt(&attempt.calls);
        assert!(
            !attempt.is_possible || matches!(outcome, Outcome::Returned(_)),
            "{}: {outcome:?}",
            attempt.what
        );
    }
    drop(free);

    let bundle = case.busybox().shell("echo ready; exec sleep 1000");
    // The root of a thread that serves files is the container's.
    fs::remove_file(bundle.rootfs().join("etc/passwd")).unwrap();
    case.detach(&bundle);
    case.wait_for_output("ready");
    let [monitor, server] = [Role::Monitor, Role::FileServer].map(|role| {
        let [process] = vm::with_role(case.id(), role)[..] else {
            panic!("not one {role:?}");
        };
        process
    });
    for (role, process) in [
        (Role::Sandbox, vm::parent(monitor)),
        (Role::Monitor, monitor),
        (Role::FileServer, server),
    ] {
        for thread in threads(process) {
            let name = fs::read_to_string(format!("/proc/{process}/task/{thread}/comm"));
            let name = name.unwrap();
            let serves_commands = role == Role::Sandbox && thread == process;
            let captive = Captive::take(case, thread);
            for attempt in attempts(case, thread, &other) {
                let outcome = captive.attempt(&attempt.calls);
                let what = &attempt.what;
                let may = serves_commands && OF_THE_SANDBOX.contains(&what.as_str());
                assert_eq!(
                    is_refused(outcome),
                    !may,
                    "{role:?}, {name}: {what}: {outcome:?}"
                );
            }
        }
    }
    // Nothing has become of the process on the host, nor of the container.
    assert_eq!(other.try_wait().unwrap(), None);
    let alive = case.command(&["exec", case.id(), "echo", "alive"]);
    assert_eq!(alive.ok(), "alive\n");
    for process in [&mut host, &mut other] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    case.remove_container();
}
