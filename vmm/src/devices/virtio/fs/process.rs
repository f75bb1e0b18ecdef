//! The process that serves files to a guest, from its fork on.
//!
//! Whoever has taken over a guest attacks this process next: it knows the guest's memory, and the
//! files are what the guest is after. So it is left with what serving them takes, and nothing else
//! of the host:
//!
//! - *Namespaces* of its own (mount, pid, network, IPC, UTS, cgroup), and as its root the directory
//!   that is shared. Each device's thread has that device's directory as its root, and Landlock keeps it
//!   to that, and the other threads from all files ([`landlock`]).
//! - *Files*: none open but the sockets to its front ends, that to its parent, the alarm, and what
//!   the guest has open.
//! - *Rights*: those of the threads that serve ([`thread`](super::thread)); the others have none, but
//!   that the main thread can make a directory read-only until a policy is enforced. Nobody without
//!   special rights can look into it, they make only the system calls that they need
//!   ([`filter`]), and it has no keys and no word of its parent's environment
//!   (which `settle` sees to).
//!
//! It ends with its parent, whether that hangs up or is killed.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::device::{Fs, MAX_GUEST_FILES, RESERVED_FILES};
use super::filter;
use super::orders::{Answer, Order};
use super::policy::Policy;
use super::thread::Reach;
use crate::call::check;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::throttle::{RateLimit, Throttle};
use crate::devices::virtio::vhost_user::{Connection, Memory, Socket};
use crate::landlock::{self, Scope};
use crate::rights::ThreadRights;
use crate::{bpf, child, inherited, limits};

/// Its name, as `/proc/PID/comm` shows it.
const NAME: &CStr = c"nacre-files";

/// `CAP_SYS_ADMIN`, to change a mount.
const MOUNTING: ThreadRights = ThreadRights::of(&[21]);

/// The standard streams.
const STREAMS: [RawFd; 3] = [0, 1, 2];

/// What a file server shows a guest, and how.
pub struct FileShare {
    /// The directory that becomes its root, on which something is mounted.
    pub root: PathBuf,
    /// For each device, its tag and the directory that it shows, in or below `root`.
    pub exports: Vec<(&'static str, PathBuf)>,
    /// How far the file systems in them reach.
    pub reach: Reach,
    /// How many files the guest can know or have open at a time, over all of the devices.
    pub files: u64,
    /// The eventfd to which the devices add 1 when the guest has most of these.
    pub alarm: Arc<OwnedFd>,
    /// How much the devices do for the guest, together.
    pub limit: RateLimit,
}

/// What the process begins with.
pub(super) struct ServingProcess {
    pub(super) share: FileShare,
    /// A pidfd.
    pub(super) parent: OwnedFd,
    pub(super) control: UnixStream,
    /// The back end of each device.
    pub(super) sockets: Vec<UnixStream>,
}

/// What it does next, for messages.
type Step = (&'static str, io::Error);

fn step<T, E: Into<io::Error>>(what: &'static str, result: Result<T, E>) -> Result<T, Step> {
    result.map_err(|error| (what, error.into()))
}

impl ServingProcess {
    /// Runs in the child until it has to end.
    pub(super) fn run(self, settle: impl FnOnce() -> io::Result<Policy>) -> ! {
        child::live(|| self.serve(settle))
    }

    fn serve(self, settle: impl FnOnce() -> io::Result<Policy>) {
        match inherited::end_with(&self.parent) {
            Ok(true) => {}
            _ => return,
        }
        let ServingProcess {
            share,
            parent,
            control,
            sockets,
        } = self;
        drop(parent);
        let line = match control.try_clone() {
            Ok(line) => Arc::new(Line(Mutex::new(line))),
            Err(_) => return,
        };
        let started = begin(&line, &control, &share, sockets, settle);
        let policy = match started {
            Ok(policy) => policy,
            Err((what, error)) => line.fail(&format!("{what}: {error}")),
        };
        line.say(&Answer::Done);
        while let Ok(Some(order)) = Order::receive(&control) {
            match carry_out(order, &policy, &share) {
                Ok(()) => line.say(&Answer::Done),
                Err((what, error)) => line.fail(&format!("{what}: {error}")),
            }
        }
    }
}

/// Confines the process and starts to serve.
fn begin(
    line: &Arc<Line>,
    control: &UnixStream,
    share: &FileShare,
    sockets: Vec<UnixStream>,
    settle: impl FnOnce() -> io::Result<Policy>,
) -> Result<Arc<Policy>, Step> {
    step("hiding itself", inherited::hide())?;
    step("naming itself", inherited::name(NAME))?;
    let mut kept = vec![control.as_raw_fd(), share.alarm.as_raw_fd()];
    kept.push(line.lock().as_raw_fd());
    kept.extend(sockets.iter().map(AsRawFd::as_raw_fd));
    step("closing what is its parent's", keep_open(kept))?;
    step("leaving its parent's keys", inherited::leave_keyring())?;
    step("making namespaces", inherited::leave_namespaces())?;
    let policy = Arc::new(step("finding its mounts", settle())?);

    let throttle = Throttle::new(share.limit);
    let count = share.exports.len() as u64;
    let mut devices = Vec::new();
    for (tag, directory) in &share.exports {
        // Its thread must see /proc once.
        let device = step(
            "opening a directory",
            Fs::of_reach(tag, directory, share.reach),
        )?
        .with_part_of_files(share.files, count)
        .with_alarm(Arc::clone(&share.alarm))
        .with_policy(Arc::clone(&policy))
        .with_throttle(throttle.clone());
        devices.push(device);
    }
    step("changing its root", change_root(&share.root))?;
    // The devices' threads are kept to their directories.
    step("giving up files", landlock::forbid_files(Scope::Nothing))?;
    for (device, socket) in devices.into_iter().zip(sockets) {
        let queues = device.queue_sizes().len();
        let connection = Connection {
            name: "fs",
            device: Box::new(device),
            handed_over: queues,
            needed: queues,
            gives_config: false,
            socket: Socket::Connected(socket),
        };
        let line = Arc::clone(line);
        let failed = Arc::new(move |why: &str| line.fail(why));
        let parent = control.as_fd().try_clone_to_owned();
        let served =
            parent.and_then(|parent| connection.serve(Memory::Shown, parent, failed, || ()));
        step("starting a thread", served)?;
    }
    let files = share.files.min(MAX_GUEST_FILES) + RESERVED_FILES;
    for (resource, most) in [
        (libc::RLIMIT_NOFILE, files),
        (libc::RLIMIT_MEMLOCK, 0),
        (libc::RLIMIT_CORE, 0),
    ] {
        step("limiting resources", limits::lower(resource, most))?;
    }
    step("giving up rights", MOUNTING.keep())?;
    let filtered = filter::program().and_then(|program| bpf::install_for_all(&program));
    step("filtering system calls", filtered)?;
    Ok(policy)
}

fn carry_out(order: Order, policy: &Policy, share: &FileShare) -> Result<(), Step> {
    match order {
        Order::Enforce(rights) => {
            policy.enforce(rights);
            step("giving up rights", ThreadRights::NONE.keep())
        }
        Order::Widen(more) => {
            policy.widen(more);
            Ok(())
        }
        Order::Seal(index) => {
            let what = "making a directory read-only";
            let export = share.exports.get(usize::from(index));
            let (_, directory) = step(what, export.ok_or(io::ErrorKind::NotFound))?;
            let below = directory.strip_prefix(&share.root);
            let below = step(what, below.map_err(io::Error::other))?;
            step(what, seal(&Path::new("/").join(below)))
        }
    }
}

/// The way to the parent, for all threads.
struct Line(Mutex<UnixStream>);

impl Line {
    fn lock(&self) -> std::sync::MutexGuard<'_, UnixStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parent waits for this. If it has gone, so does this process.
    fn say(&self, answer: &Answer) {
        let _ = answer.send(&self.lock());
    }

    /// Says why the process can't continue, and ends it.
    fn fail(&self, why: &str) -> ! {
        self.say(&Answer::Failed(why.to_owned()));
        child::exit(1)
    }
}

/// Leaves nothing open but these, and `/dev/null` as the standard streams. Files that were open
/// belong to values of the parent's, which nobody here uses or drops.
fn keep_open(mut kept: Vec<RawFd>) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for stream in STREAMS {
        // SAFETY: the call takes numbers.
        check(unsafe { libc::dup2(null.as_raw_fd(), stream) }.into())?;
    }
    drop(null);
    kept.sort_unstable();
    let mut first = STREAMS.len() as libc::c_uint;
    for fd in kept.into_iter().map(|fd| fd as libc::c_uint) {
        if fd > first {
            // SAFETY: what is closed isn't used any more.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = fd + 1;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })
}

/// Makes the directory, on which something is mounted, the root.
fn change_root(directory: &Path) -> io::Result<()> {
    inherited::change_root(&CString::new(directory.as_os_str().as_bytes())?)
}

/// Makes the mount at the directory read-only (mount_setattr(2)).
fn seal(directory: &Path) -> io::Result<()> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string, and the attributes have the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            &raw const attributes,
            size_of_val(&attributes),
        )
    })
}
