//! Each test runs in a process of its own, in which it has only itself for company: what is forked
//! may then do more than make system calls.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::devices::virtio::fs::{Ids, Reach};
use crate::devices::virtio::testing::*;
use crate::devices::virtio::throttle::RateLimit;
use crate::devices::virtio::vhost_user::RemoteDevice;
use crate::devices::virtio::{Activation, Interrupt, VirtioDevice};
use crate::memory::{MIN_MEMORY, create};

const VARIABLE: &str = "NACRE_FILE_SERVER_TEST";

/// Where the share is mounted, in the test's own mount namespace.
const ROOT: &str = "/mnt";

fn alone(test: fn()) {
    if std::env::var_os(VARIABLE).is_some() {
        return test();
    }
    // SAFETY: geteuid() always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        panic!("skipped: it needs root");
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--include-ignored", &name])
        .env(VARIABLE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(
        again.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

/// Starts a server of a share with one directory, `root`.
fn start() -> (FileServer, RemoteDevice, EventFd) {
    let none = std::ptr::null::<libc::c_char>();
    let root = std::ffi::CString::new(ROOT).unwrap();
    // SAFETY: the arguments are numbers, C strings, and null where that is accepted.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let made = libc::mount(none, c"/".as_ptr(), none, private, none.cast());
        assert_eq!(made, 0);
        let tmpfs = c"tmpfs".as_ptr();
        assert_eq!(libc::mount(tmpfs, root.as_ptr(), tmpfs, 0, none.cast()), 0);
        fs::create_dir(format!("{ROOT}/root")).unwrap();
        let inner = c"/mnt/root".as_ptr();
        assert_eq!(libc::mount(tmpfs, inner, tmpfs, 0, none.cast()), 0);
    }
    let alarm = EventFd::new(EFD_NONBLOCK).unwrap();
    let share = FileShare {
        root: ROOT.into(),
        exports: vec![("shared", format!("{ROOT}/root").into())],
        reach: Reach::Inside,
        files: 100,
        alarm: Arc::new(OwnedFd::from(fs::File::from(to_file(&alarm)))),
        limit: RateLimit::default(),
    };
    // SAFETY: but for this one, all threads of this process wait.
    let spawned = unsafe { FileServer::spawn(share, || Ok(Policy::new(HashMap::new()))) };
    let (server, mut devices) = spawned.unwrap();
    server.await_start().unwrap();
    (server, devices.pop().unwrap(), alarm)
}

fn to_file(event: &EventFd) -> OwnedFd {
    use std::os::fd::{FromRawFd, IntoRawFd};
    // SAFETY: the copy gives its descriptor up.
    unsafe { OwnedFd::from_raw_fd(event.try_clone().unwrap().into_raw_fd()) }
}

fn nothing() -> Rights {
    Rights {
        makes_devices: false,
        administers: false,
        keeps_set_ids: false,
        acts_as_owner: false,
        sets_capabilities: false,
        users: Ids::Only(vec![7..=7]),
        groups: Ids::Only(vec![]),
    }
}

/// Interrupts by an event.
struct Wire(EventFd);

impl Interrupt for Wire {
    fn signal_used(&self, _index: u16) {}

    fn signal_config(&self) {}

    fn fail(&self, why: &str) {
        panic!("{why}");
    }

    fn used_event(&self) -> Option<&EventFd> {
        Some(&self.0)
    }
}

/// Has the device make a directory (`FUSE_MKDIR`), as root; returns the answer's error number.
fn make_directory(device: &mut RemoteDevice, name: &str) -> i32 {
    let memory = Arc::new(create(MIN_MEMORY).unwrap());
    let sizes = device.queue_sizes().to_vec();
    let queue = |(index, size): (usize, &u16)| DriverQueue::new(&memory, index, *size);
    let mut queues: Vec<_> = sizes.iter().enumerate().map(queue).collect();
    let wire = Arc::new(Wire(EventFd::new(EFD_NONBLOCK).unwrap()));
    let activation = Activation {
        memory: Arc::clone(&memory),
        queues: queues.iter().map(DriverQueue::active).collect(),
        interrupt: Arc::clone(&wire) as Arc<dyn Interrupt>,
        features: device.features() & !(1 << 29),
    };
    device.activate(activation).unwrap();
    let mut ask = |opcode: u32, body: &[u8]| {
        // `struct fuse_in_header`: the root, by root.
        let head = [(40 + body.len()) as u32, opcode, 1, 0, 1, 0, 0, 0, 1, 0];
        let bytes: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
        let request = [&bytes, body].concat();
        let (to, from) = (BUFFERS, BUFFERS + 0x1_0000);
        memory.write_slice(&request, GuestAddress(to)).unwrap();
        queues[1].run(&[(to, request.len() as u32, false), (from, 4096, true)]);
        wait_for("an interrupt", || wire.0.read().ok());
        memory.read_obj::<i32>(GuestAddress(from + 4)).unwrap()
    };
    // `struct fuse_init_in`: version 7.38, and all features of Linux.
    let mut init = [0_u32; 16];
    init[..5].copy_from_slice(&[7, 38, 0x2_0000, u32::MAX, 4]);
    let init: Vec<u8> = init.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(ask(26, &init), 0);
    let mode: Vec<u8> = [0o755_u32, 0].map(u32::to_le_bytes).concat();
    let error = ask(9, &[&mode, name.as_bytes(), b"\0"].concat());
    device.reset();
    error
}

#[test]
#[ignore = "needs root"]
fn it_serves_what_it_is_told_to() {
    alone(|| {
        let (server, mut device, _alarm) = start();
        assert_eq!(make_directory(&mut device, "free"), 0);
        let made = format!("/proc/{}/root/root/free", server.pid());
        assert!(Path::new(&made).exists());
        server.enforce(nothing()).unwrap();
        assert_eq!(make_directory(&mut device, "refused"), -libc::EPERM);
        let root = Rights {
            users: Ids::Any,
            groups: Ids::Any,
            ..nothing()
        };
        server.widen(root).unwrap();
        assert_eq!(make_directory(&mut device, "allowed"), 0);
        // It can't any more.
        assert!(matches!(server.seal(0), Err(FileServerError::Failed(_))));
    });
}

#[test]
#[ignore = "needs root"]
fn a_directory_is_sealed() {
    alone(|| {
        let (server, mut device, _alarm) = start();
        server.seal(0).unwrap();
        assert_eq!(make_directory(&mut device, "new"), -libc::EROFS);
    });
}

#[test]
#[ignore = "needs root"]
fn its_end_is_told() {
    alone(|| {
        let (server, mut device, _alarm) = start();
        assert_eq!(make_directory(&mut device, "new"), 0);
        server.child.kill();
        let why = server.failure().to_string();
        assert!(why.contains("was killed by SIGKILL"), "{why}");
        assert!(matches!(
            server.enforce(nothing()),
            Err(FileServerError::Talk(_))
        ));
        device.reset();

        // One that has been stopped holds nobody up, and is gone when nobody wants it any more.
        let (server, _device, _alarm) = start();
        server.child.signal(libc::SIGSTOP).unwrap();
        let begin = Instant::now();
        assert!(matches!(
            server.enforce(nothing()),
            Err(FileServerError::Silent)
        ));
        assert!(begin.elapsed() < ANSWER_LIMIT + TIMEOUT);
        let process = format!("/proc/{}", server.pid());
        drop(server);
        assert!(!Path::new(&process).exists());
    });
}

#[test]
#[ignore = "needs root"]
fn it_has_nothing_of_its_parents() {
    alone(|| {
        let _open = fs::File::open("/etc/passwd").unwrap();
        let (server, _device, _alarm) = start();
        server.enforce(nothing()).unwrap();
        let process = format!("/proc/{}", server.pid());
        for kind in ["mnt", "ipc", "uts", "net", "pid", "cgroup"] {
            let of = |process: &str| fs::read_link(format!("{process}/ns/{kind}")).unwrap();
            assert_ne!(of(&process), of("/proc/self"), "{kind}");
        }
        let names = |path: String| -> BTreeSet<String> {
            let entries = fs::read_dir(path).unwrap();
            let name = |entry: fs::DirEntry| entry.file_name().to_str().unwrap().to_owned();
            entries.map(|entry| name(entry.unwrap())).collect()
        };
        assert_eq!(names(format!("{process}/root")), ["root".to_owned()].into());
        for fd in names(format!("{process}/fd")) {
            let file = fs::read_link(format!("{process}/fd/{fd}")).unwrap();
            let file = file.to_str().unwrap();
            let is_own = ["socket:", "anon_inode:[event"];
            assert!(
                is_own.iter().any(|kind| file.starts_with(kind))
                    || ["/null", "/dev/null", "/root", "/mnt/root", "/"].contains(&file)
                    || file.ends_with("/fd"),
                "{file}"
            );
        }
        let field = |thread: &str, name: &str| {
            let status = fs::read_to_string(format!("{process}/task/{thread}/status")).unwrap();
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        };
        let none = "0000000000000000";
        let threads = names(format!("{process}/task"));
        // A thread gives its rights up before it does anything else, but nobody waits for that.
        let end = Instant::now() + Duration::from_secs(30);
        let has_rights = |thread: &String| {
            let serves = field(thread, "Name") == "fs";
            field(thread, "CapBnd") != none || !serves && field(thread, "CapPrm") != none
        };
        while threads.iter().any(has_rights) {
            assert!(Instant::now() < end, "a thread keeps its rights");
            std::thread::sleep(Duration::from_millis(5));
        }
        let rights = |thread: &str| {
            assert_eq!(field(thread, "NoNewPrivs"), "1");
            (field(thread, "Name"), field(thread, "CapPrm") == none)
        };
        let found: Vec<_> = threads.iter().map(|thread| rights(thread)).collect();
        for (name, has_none) in &found {
            assert_eq!(*has_none, name != "fs", "{name}");
        }
        assert_eq!(found.len(), 3, "{found:?}");
        // Nobody but root can look into it.
        let maps = fs::metadata(format!("{process}/maps")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&maps), 0);
    });
}
