//! What can be reached of the host through the processes of a VM's container: nothing but the
//! container.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre_tests::vm::{self, Role};
use nacre_tests::{Bundle, Case, Outcome};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe};
use serde_json::json;

nacre_tests::tests![
    nothing_of_the_host_is_in_reach: Vm,
    nothing_of_the_host_is_in_reach_with_users: Vm,
    nothing_of_the_callers_is_kept: Vm,
    a_stand_in_has_no_rights: Vm,
    who_enters_finds_the_container: Vm,
    a_volatile_root_isnt_shown: Vm,
    a_mount_of_the_guests_isnt_seen_through: Vm,
    the_stand_in_is_killed: Vm,
    the_sandbox_process_is_killed: Vm,
    stopped_stand_ins_are_removed: Vm,
    signals_get_through: Vm,
    a_foreground_run_is_killed: Vm,
    an_exec_is_never_seen_outside: Vm,
];

/// An environment variable of the caller.
const VARIABLE: &str = "NACRE_TEST_SECRET";

/// How many directories a walk goes up: more than there are.
const DEEP: usize = 40;

/// Makes a directory on the host outside the container's share, with a file.
fn marker(case: &Case) -> PathBuf {
    let marker = case.directory().join("marker/file");
    fs::create_dir_all(marker.parent().unwrap()).unwrap();
    fs::write(&marker, "of the host").unwrap();
    marker
}

/// Makes a container with volumes, the second of which is read-only.
fn with_volumes(case: &Case, script: &str) -> Bundle {
    let mut bundle = case.busybox().shell(script);
    for (name, flags) in [("volume", "rw"), ("sealed", "ro")] {
        let source = case.directory().join(name);
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("file"), name).unwrap();
        let options = ["rbind", flags, "nosuid", "noexec"];
        bundle = bundle.mount(
            &format!("/{name}"),
            "bind",
            source.to_str().unwrap(),
            &options,
        );
    }
    bundle.mount("/tmp", "tmpfs", "tmpfs", &[])
}

const IDLE: &str = "echo ready; exec sleep 1000";

/// Starts a container and a later process in it. Returns the pids of both.
fn start(case: &Case, bundle: &Bundle) -> [Pid; 2] {
    let pid = case.detach(bundle);
    case.wait_for_output("ready");
    [pid, exec(case, case.nacre())]
}

fn exec(case: &Case, mut command: Command) -> Pid {
    let file = case.directory().join("exec-pid");
    command.args(["exec", "--detach", "--pid-file"]).arg(&file);
    command.args([case.id(), "sleep", "1000"]);
    assert_eq!(case.leave(command), 0, "{}", case.output());
    Pid::from_raw(fs::read_to_string(file).unwrap().parse().unwrap())
}

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

/// Runs a shell script in the namespaces of a container's pid.
fn enter(case: &Case, pid: Pid, script: &str) -> Outcome {
    let mut command = case.mark(Command::new("nsenter"));
    command.arg(format!("--target={pid}"));
    command.args(["-m", "-p", "-i", "-u", "/bin/sh", "-c", script]);
    case.spawn(command).finish()
}

fn who_enters_finds_the_container(case: &Case) {
    let bundle = with_volumes(case, IDLE).mount("/made/for/it", "tmpfs", "tmpfs", &[]);
    fs::write(bundle.rootfs().join("etc/mark"), "the root's").unwrap();
    let pid = case.detach(&bundle);
    case.wait_for_output("ready");
    let script = "hostname; cat /etc/mark; echo; cat /volume/file /sealed/file; echo
                  echo new >/volume/new; echo new >/root/new
                  grep -E ' /(volume|sealed) ' /proc/self/mountinfo | cut -d ' ' -f 5,6
                  cd /proc; ls -d [0-9]* | wc -l; ls -d [a-z]*; ls -A /sys; ls -A /dev/shm /tmp 2>&1; :";
    let output = enter(case, pid, script).ok();
    // The shell, `ls` and `wc` are there too.
    let expected = "nacre\nthe root's\nvolumesealed\n\
                    /volume rw,nosuid,nodev,noexec,relatime\n\
                    /sealed ro,nosuid,nodev,noexec,relatime\n4\nself\nthread-self\n\
fs\nls: /dev/shm: Transport endpoint is not connected\n\
                    ls: /tmp: Transport endpoint is not connected\n";
    assert_eq!(sorted(&output), sorted(expected), "{output}");
    // Both see the container's own files.
    let script = "cat /volume/new /root/new";
    let inside = case.command(&["exec", case.id(), "sh", "-c", script]);
    assert_eq!(inside.ok(), "new\nnew\n");
    for place in [
        "/sealed",
        "/tmp",
        "/dev",
        "/dev/shm",
        "/sys",
        "/made/for/it",
        "/proc",
    ] {
        let outcome = enter(case, pid, &format!("echo >{place}/new"));
        assert_ne!(outcome.status(), Some(0), "{place}");
    }
    for place in ["tmp", "dev", "sys", "made/for/it", "proc"] {
        let below = fs::read_dir(bundle.rootfs().join(place)).unwrap();
        assert_eq!(below.count(), 0, "{place}");
    }
    case.remove_container();
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn a_volatile_root_isnt_shown(case: &Case) {
    let bundle = with_volumes(case, IDLE).annotation("dev.nacre.vm.rootfs", "overlay");
    let pid = case.detach(&bundle);
    case.wait_for_output("ready");
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    assert!(!root.join("bin").exists());
    fs::write(root.join("new"), "").unwrap_err();
    // What is on the host is visible.
    assert_eq!(
        fs::read_to_string(root.join("volume/file")).unwrap(),
        "volume"
    );
    assert!(!bundle.rootfs().join("volume").exists());
    case.remove_container();
}

fn a_mount_of_the_guests_isnt_seen_through(case: &Case) {
    let bundle = case.busybox().shell(IDLE);
    let bundle = bundle.mount("/covered", "tmpfs", "tmpfs", &[]);
    let root = bundle.rootfs();
    fs::create_dir(root.join("covered")).unwrap();
    fs::write(root.join("covered/below"), "").unwrap();
    // This image would have its mounts made elsewhere on the host.
    let marker = marker(case);
    let outside = marker.parent().unwrap();
    std::os::unix::fs::symlink(outside, root.join("away")).unwrap();
    let bundle = bundle.mount("/away", "tmpfs", "tmpfs", &[]);
    let bundle = bundle.push("/linux/maskedPaths", "/etc/passwd");
    let pid = case.detach(&bundle);
    case.wait_for_output("ready");
    let script = "ls -A /covered 2>&1; ls -A /away/ 2>&1; cat /etc/passwd; echo done";
    let unreachable = |path| format!("ls: {path}: Transport endpoint is not connected\n");
    let expected = unreachable("/covered") + &unreachable("/away/") + "done\n";
    assert_eq!(enter(case, pid, script).ok(), expected);
    case.remove_container();
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
    let made = root.join(outside.strip_prefix("/").unwrap());
    assert_eq!(fs::read_dir(made).unwrap().count(), 0);
}

fn the_stand_in_is_killed(case: &Case) {
    let pid = case.detach(&with_volumes(case, IDLE));
    case.wait_for_output("ready");
    kill(pid, Signal::SIGKILL).unwrap();
    case.wait_for_status("stopped");
    case.wait_for("end", || vm::with_role(case.id(), Role::Sandbox).is_empty());
    case.command(&["delete", case.id()]).ok();

    let mut running = case.start(&with_volumes(case, IDLE));
    running.wait_for_line("ready");
    let pid = case.inspect()["pid"].as_i64().unwrap();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    running.finish().expect(137);
}

fn the_sandbox_process_is_killed(case: &Case) {
    let pid = case.detach(&with_volumes(case, IDLE));
    case.wait_for_output("ready");
    let sandbox = vm::with_role(case.id(), Role::Sandbox);
    kill(sandbox[0], Signal::SIGKILL).unwrap();
    case.wait_for("end", || {
        !Path::new(&format!("/proc/{pid}/ns/pid")).exists()
    });
    // When the caller learns of the end, the container is stopped.
    assert_eq!(case.status(), "stopped");
    case.command(&["delete", case.id()]).ok();
}

fn stopped_stand_ins_are_removed(case: &Case) {
    for end in ["TERM", "KILL"] {
        let stand_ins = start(case, &with_volumes(case, "echo ready; sleep 1000"));
        for pid in stand_ins {
            kill(pid, Signal::SIGSTOP).unwrap();
        }
        case.command(&["kill", case.id(), end]).ok();
        if end == "KILL" {
            case.wait_for_status("stopped");
        }
        case.command(&["delete", "--force", case.id()]).ok();
        let are_gone = || vm::with_role(case.id(), Role::StandIn).is_empty();
        case.wait_for("end of what stands for them", are_gone);
        let cgroups = nacre_tests::leftovers::cgroups_named(case.id());
        assert!(cgroups.is_empty(), "{cgroups:?}");
    }
}

fn signals_get_through(case: &Case) {
    let script = "trap 'echo one' USR1; trap 'echo two' HUP; trap 'echo end; exit 9' TERM
                  echo ready; while :; do sleep 0.05; done";
    let pid = case.detach(&case.busybox().shell(script));
    case.wait_for_output("ready");
    for (signal, word) in [
        (Signal::SIGUSR1, "one"),
        (Signal::SIGHUP, "two"),
        (Signal::SIGTERM, "end"),
    ] {
        kill(pid, signal).unwrap();
        case.wait_for_output(word);
    }
    case.wait_for_status("stopped");
    // It isn't a child that this test could wait for.
    assert!(matches!(
        waitpid(pid, None),
        Err(nix::Error::ECHILD) | Ok(WaitStatus::Exited(_, 9))
    ));
    case.command(&["delete", case.id()]).ok();
}

fn a_foreground_run_is_killed(case: &Case) {
    let mut running = case.start(&with_volumes(case, IDLE));
    running.wait_for_line("ready");
    let outside = vm::with_role(case.id(), Role::Outside);
    assert_eq!(outside.len(), 2, "the command, and who cleans up after it");
    running.signal(Signal::SIGKILL);
    running.finish();
    case.wait_for("end", || vm::processes(case.id()).is_empty());
    assert_eq!(nacre_tests::leftovers::files(&case.state()), [""; 0]);
    assert!(nacre_tests::leftovers::cgroups_named(case.id()).is_empty());
}

/// A process with every right inspects everything in the container's pid namespace, while processes
/// come and go there.
fn an_exec_is_never_seen_outside(case: &Case) {
    let marker = marker(case);
    let pid = case.detach(&with_volumes(case, IDLE));
    case.wait_for_output("ready");
    let script = format!(
        "while [ ! -e /volume/stop ]; do
             for process in /proc/[0-9]*; do
                 [ $process = /proc/$$ ] && continue
                 [ $process = /proc/1 ] || seen=1
                 for way in root cwd cwd/../../../../../.. fd/3/../../../../../..; do
                     [ -e $process/$way{0} ] && echo $process/$way
                 done
                 grep -s -E 'Cap(Prm|Eff|Bnd):.*[1-9a-f]' $process/status
             done
         done; echo seen $seen",
        marker.display()
    );
    let mut racer = case.mark(Command::new("nsenter"));
    racer.arg(format!("--target={pid}"));
    racer.args(["-m", "-p", "/bin/sh", "-c", &script]);
    let racer = case.spawn(racer);
    for _ in 0..40 {
        let mut command = case.nacre();
        command.args(["exec", "--detach", case.id(), "true"]);
        assert_eq!(case.leave(command), 0, "{}", case.output());
    }
    fs::write(case.directory().join("volume/stop"), "").unwrap();
    assert_eq!(racer.finish().ok(), "seen 1\n");
    case.remove_container();
}

fn libc_dup2(from: i32, to: i32) -> i32 {
    // SAFETY: the call takes no pointers.
    unsafe { libc::dup2(from, to) }
}
