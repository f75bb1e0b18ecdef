//! What Landlock refuses a VM's threads, if nothing else does: it is tried from inside each of them, without
//! its filter. The table in docs/threat-model.md says which files are left.

use std::fs;
use std::path::PathBuf;

use nacre_tests::Case;
use nacre_tests::captive::{Argument, Call, Captive, Outcome};
use nacre_tests::vm::{self, Role};
use nacre_vmm::Landlock;
use nix::errno::Errno;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use super::network::Lan;
use super::rights::{bundle, name, own_capabilities, table};

nacre_tests::tests![
    nothing_else_is_left: Vm,
];

/// The first version that keeps a thread's signals from processes that aren't confined with it.
const WITH_SIGNALS: usize = 6;

fn number(value: impl Into<i64>) -> Argument {
    Argument::Number(value.into())
}

fn path(path: &str) -> Argument {
    Argument::Bytes([path.as_bytes(), b"\0"].concat())
}

/// Reads a directory, by a descriptor that the thread has, or from its root.
fn open(directory: libc::c_int, name: &str) -> Call {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    Call {
        number: libc::SYS_openat,
        arguments: vec![number(directory), path(name), number(flags)],
    }
}

fn mount() -> Call {
    Call {
        number: libc::SYS_mount,
        arguments: vec![path("tmpfs"), path("/"), path("tmpfs")],
    }
}

/// Sends the first process of the thread's pid namespace, which the thread is in, a signal.
fn signal() -> Call {
    Call {
        number: libc::SYS_kill,
        arguments: vec![number(1), number(libc::SIGCONT)],
    }
}

/// Returns the descriptor by which a process sees its own, through a mount of `/proc` that is attached
/// nowhere.
#[track_caller]
fn own_descriptors(process: Pid) -> libc::c_int {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let mut found = descriptors.filter_map(|descriptor| {
        let descriptor = descriptor.unwrap().path();
        let number = descriptor.file_name().unwrap().to_str().unwrap();
        let is_of_proc = statfs(&descriptor).unwrap().filesystem_type() == PROC_SUPER_MAGIC;
        is_of_proc.then(|| number.parse().unwrap())
    });
    found.next().expect("its descriptors")
}

fn nothing_else_is_left(case: &Case) {
    let Some(landlock) = Landlock::find() else {
        case.ignore("the kernel has no Landlock");
    };
    if !landlock.keeps_to_directories() {
        case.ignore("the kernel's Landlock can't keep a thread to a directory");
    }
    let lan = Lan::new(case);
    case.detach(&bundle(case, &lan));
    case.wait_for_output("ready");
    let table = table(&own_capabilities());
    let [monitor, server] =
        [Role::Monitor, Role::FileServer].map(|role| vm::with_role(case.id(), role)[0]);
    let stand_in = vm::with_role(case.id(), Role::StandIn)[0];
    for (role, process) in [
        ("sandbox", vm::parent(monitor)),
        ("monitor", monitor),
        ("files", server),
        ("stand-in", stand_in),
    ] {
        for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
            let task: PathBuf = thread.unwrap().path();
            let name = name(process, &task);
            if name.starts_with("kvm-") {
                continue;
            }
            let mut rows = table.iter();
            let row = rows.find(|row| row.names(role, &name)).unwrap();
            let thread = task.file_name().unwrap().to_str().unwrap();
            let captive = Captive::take(case, Pid::from_raw(thread.parse().unwrap()));
            let attempt = |call| captive.attempt_unfiltered(&[call]);
            let what = format!("{role}: {name}");
            let root = attempt(open(libc::AT_FDCWD, "/"));
            match row.landlock {
                "all" => assert!(matches!(root, Outcome::Returned(_)), "{what}: {root:?}"),
                "none" => assert_eq!(root, Outcome::Failed(Errno::EACCES), "{what}"),
                "its directory's" => {
                    assert!(matches!(root, Outcome::Returned(_)), "{what}: {root:?}");
                    let outside = attempt(open(own_descriptors(process), "."));
                    assert_eq!(outside, Outcome::Failed(Errno::EACCES), "{what}");
                    // It has the right to mount.
                    assert_eq!(attempt(mount()), Outcome::Failed(Errno::EPERM), "{what}");
                    if landlock.version() >= WITH_SIGNALS {
                        assert_eq!(attempt(signal()), Outcome::Failed(Errno::EPERM), "{what}");
                    }
                }
                other => panic!("{other}"),
            }
        }
    }
    // It goes on as if nothing had been.
    let alive = case.command(&["exec", case.id(), "echo", "alive"]);
    assert_eq!(alive.ok(), "alive\n");
    case.remove_container();
}
