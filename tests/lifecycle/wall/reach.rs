//! What can be reached of the host, and of the caller, from the processes of a VM.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nacre_tests::vm::{self, Role};
use nacre_tests::{Bundle, Case};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::{Pid, pipe};
use serde_json::json;

use super::{IDLE, exec, marker, start, with_volumes};

nacre_tests::tests![
    nothing_of_the_host_is_in_reach: Vm,
    nothing_of_the_host_is_in_reach_with_users: Vm,
    nothing_of_the_callers_is_kept: Vm,
    a_stand_in_has_no_rights: Vm,
];

/// An environment variable of the caller.
const VARIABLE: &str = "NACRE_TEST_SECRET";

/// How many directories a walk goes up: more than there are.
const DEEP: usize = 40;

fn nothing_of_the_host_is_in_reach(case: &Case) {
    walk(
        case,
        with_volumes(case, IDLE),
        &["mnt", "ipc", "uts", "net", "pid", "cgroup"],
    );
}

fn nothing_of_the_host_is_in_reach_with_users(case: &Case) {
    let ids = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    let bundle = with_volumes(case, IDLE)
        .push("/linux/namespaces", json!({ "type": "user" }))
        .push("/linux/namespaces", json!({ "type": "time" }))
        .set("/linux/timeOffsets/boottime", json!({ "secs": 1000 }))
        .set("/linux/uidMappings", ids.clone())
        .set("/linux/gidMappings", ids);
    let root = bundle.rootfs();
    let owned = Command::new("chown")
        .args(["-hR", "100000:100000"])
        .arg(&root)
        .status();
    assert!(owned.unwrap().success());
    let kinds = ["mnt", "ipc", "uts", "net", "pid", "cgroup", "user", "time"];
    walk(case, bundle, &kinds);
}

/// Inspects every process of a container in all ways.
#[track_caller]
fn walk(case: &Case, bundle: Bundle, of_stand_ins: &[&str]) {
    let marker = marker(case);
    let stand_ins = start(case, &bundle);
    let processes = vm::processes(case.id());
    let count = |role| processes.iter().filter(|(_, other)| *other == role).count();
    assert_eq!(
        (count(Role::StandIn), count(Role::Sandbox)),
        (2, 1),
        "{processes:?}"
    );
    assert_eq!(count(Role::Monitor), 1);
    assert_eq!(count(Role::FileServer), 1);
    assert_eq!(count(Role::Qemu), usize::from(case.is_emulated()));
    assert_eq!(count(Role::Outside), 0);
    for (pid, role) in processes {
        let kinds = match role {
            Role::StandIn => of_stand_ins,
            Role::Qemu => &["mnt", "ipc", "uts", "net", "pid"],
            Role::Monitor => &["mnt", "ipc", "uts", "net", "pid", "cgroup"],
            Role::FileServer => &["mnt", "ipc", "uts", "net", "pid", "cgroup"],
            _ => &["mnt", "ipc", "uts", "net"],
        };
        assert_eq!(role == Role::StandIn, stand_ins.contains(&pid));
        for kind in kinds {
            let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{role:?}: {kind}");
        }
        look_at_mounts(case, pid, role);
        if role == Role::Qemu {
            vm::is_confined(pid);
        }
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let thread = thread.unwrap().path();
            for link in ["root", "cwd"] {
                nothing_above(&thread.join(link), &marker);
            }
        }
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let fd = fd.unwrap().path();
            // The descriptor may be closed meanwhile.
            if fs::metadata(&fd).is_ok_and(|metadata| metadata.is_dir()) {
                nothing_above(&fd, &marker);
                is_of_its_root(&fd, pid);
            }
        }
    }
    case.remove_container();
}

/// Fails if the marker can be reached from a directory, or from one above it.
#[track_caller]
fn nothing_above(directory: &Path, marker: &Path) {
    let from_root = marker.strip_prefix("/").unwrap();
    let mut above = directory.to_owned();
    for _ in 0..DEEP {
        let found = above.join(from_root);
        assert!(!found.exists(), "{}", found.display());
        above.push("..");
    }
    // The walk up ended at some root.
    let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).unwrap();
    assert_eq!(id(&above), id(&above.join("..")));
}

/// Fails unless a walk up from a descriptor ends at the process's root, or at the descriptor
/// itself.
#[track_caller]
fn is_of_its_root(fd: &Path, pid: Pid) {
    let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let top = (0..DEEP).fold(fd.to_owned(), |path, _| path.join(".."));
    let ends = [id(Path::new(&format!("/proc/{pid}/root"))), id(fd)];
    let target = fs::read_link(fd);
    assert!(ends.contains(&id(&top)), "{} ({target:?})", fd.display());
}

/// Fails if anything is mounted that isn't the container's.
#[track_caller]
fn look_at_mounts(case: &Case, pid: Pid, role: Role) {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (source, point) = (words[3], words[4]);
        let is_right = match role {
            // It has mounts of its own: its jail contains nothing but libraries.
            Role::Qemu => point != "/" || line.contains(" - tmpfs "),
            Role::Monitor => point == "/" && line.contains(" - tmpfs "),
            Role::FileServer => {
                let of_container = source.contains(case.id()) || source.contains("cover");
                of_container || point == "/"
            }
            Role::Sandbox => {
                let of_container = source.contains(case.id()) || point.contains(case.id());
                of_container || ["/", "/dev/net/tun"].contains(&point)
            }
            _ => {
                let of_container = source.contains(case.id()) || source.contains("cover");
                of_container || point == "/proc" || line.contains(" - fuse ")
            }
        };
        assert!(is_right, "{role:?}: {line}");
    }
}

/// Gives a command a descriptor of its caller, at a high number and not to be closed by an exec,
/// and a variable.
fn with_a_secret(mut command: Command, fd: &OwnedFd) -> Command {
    let fd = fd.as_raw_fd();
    command.env(VARIABLE, "1");
    // SAFETY: dup2(2) may be called between fork and exec.
    unsafe {
        command.pre_exec(move || match libc_dup2(fd, 77) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command
}

fn libc_dup2(from: i32, to: i32) -> i32 {
    // SAFETY: the call takes no pointers.
    unsafe { libc::dup2(from, to) }
}

fn nothing_of_the_callers_is_kept(case: &Case) {
    let (reading, writing) = pipe().unwrap();
    for end in [&reading, &writing] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    let bundle = with_volumes(case, IDLE);
    let mut command = with_a_secret(case.nacre(), &writing);
    command
        .args(["run", "--detach", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    assert_eq!(case.leave(command), 0, "{}", case.output());
    case.wait_for_output("ready");
    exec(case, with_a_secret(case.nacre(), &writing));
    drop(writing);
    fcntl(&reading, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    // The read returns the end of the file, as nothing holds the other end.
    assert_eq!(File::from(reading).read(&mut [0]).unwrap(), 0);
    for (pid, role) in vm::processes(case.id()) {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(environ.iter().all(|byte| *byte == 0), "{role:?}");
    }
    case.remove_container();
}

fn a_stand_in_has_no_rights(case: &Case) {
    for pid in start(case, &with_volumes(case, IDLE)) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim_start_matches(':').trim()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Groups"), "");
        // An ordinary process's file belongs to its user, and a non-dumpable one's to root.
        assert_eq!(
            fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid(),
            0
        );
    }
    let [pid, _] = [case.inspect()["pid"].as_i64().unwrap(), 0];
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("NSpid:\t{pid}\t1\n")), "{status}");
    assert!(status.contains("Threads:\t1\n"), "{status}");
    let mut files: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|fd| fs::read_link(fd.unwrap().path()).unwrap())
        .map(|target| {
            target
                .to_str()
                .unwrap()
                .split(':')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    files.sort();
    assert_eq!(files, ["/null", "/null", "/null", "anon_inode", "socket"]);
    case.remove_container();
}
