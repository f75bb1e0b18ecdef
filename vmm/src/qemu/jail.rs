//! The jail that QEMU runs in.
//!
//! QEMU emulates a hostile guest's processor, so it is confined as if it had been taken over. From
//! before its first instruction it has: its own namespaces (mount, network, IPC, UTS, PID), a root
//! with nothing in it but its shared libraries and modules, read-only, and a `/proc` that shows
//! only itself ([`root`]); a user and a group that nothing else has, no capabilities and no way to
//! get any (`no_new_privs`, an empty bounding set); a new session keyring; only the descriptors
//! that it is given; limits; and only the system calls that it needs ([`filter`]). Its own system
//! call filter comes on top ([`command`](super::command)).
//!
//! It gets `SIGKILL` when the thread that made it ends, whatever the cause (prctl(2),
//! `PR_SET_PDEATHSIG`).
//!
//! Everything is prepared before the fork: the child of a process that may have threads may only
//! make system calls.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr;

use super::filter;
use super::root::{self, Entry};
use crate::child::{Child, pidfd};
use crate::own_user::OwnUser;
use crate::{bpf, inherited, limits};

/// Where the tmpfs that becomes the root is first mounted. Every host has this directory.
const MOUNT_POINT: &CStr = c"/proc";

/// How many threads its user has in addition to the vCPUs', generously: QEMU's own, and those of the
/// monitor, which is that user's as well.
const OTHER_THREADS: u64 = 256;

/// How many descriptors it starts with, at most.
const MAX_GIVEN: usize = 32;

/// What QEMU is started with.
pub(super) struct Jail<'a> {
    pub(super) binary: BorrowedFd<'a>,
    /// The binary's path; it looks for its modules relative to that.
    pub(super) path: &'a Path,
    /// What its loader loads.
    pub(super) libraries: &'a [PathBuf],
    pub(super) arguments: Vec<CString>,
    /// Its descriptors, from 0 up.
    pub(super) files: Vec<BorrowedFd<'a>>,
    /// Its user and group.
    pub(super) user: OwnUser,
    pub(super) vcpus: u8,
    /// How many files it can have open.
    pub(super) max_files: u64,
}

/// Everything that the child needs, prepared.
struct Ready {
    files: Vec<RawFd>,
    binary: RawFd,
    parent: OwnedFd,
    arguments: Vec<*const libc::c_char>,
    root: Vec<Entry>,
    user: OwnUser,
    limits: [(libc::__rlimit_resource_t, u64); 4],
    filter: Vec<libc::sock_filter>,
}

impl Jail<'_> {
    /// Starts QEMU. The child reports on its standard error what fails.
    pub(super) fn spawn(self) -> io::Result<Child> {
        let own = std::process::id();
        let mut arguments: Vec<_> = self.arguments.iter().map(|a| a.as_ptr()).collect();
        arguments.push(ptr::null());
        let ready = Ready {
            files: self.files.iter().map(AsRawFd::as_raw_fd).collect(),
            binary: self.binary.as_raw_fd(),
            parent: pidfd(own)?,
            arguments,
            root: root::entries(self.path, self.libraries)?,
            user: self.user,
            limits: [
                (libc::RLIMIT_CORE, 0),
                // It writes no files; memory already has its size.
                (libc::RLIMIT_FSIZE, 0),
                (libc::RLIMIT_NOFILE, self.max_files),
                (libc::RLIMIT_NPROC, u64::from(self.vcpus) + OTHER_THREADS),
            ],
            filter: filter::program(self.files.len() as RawFd)?,
        };
        let flags = libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWPID
            | libc::CLONE_PIDFD
            | libc::SIGCHLD;
        let mut pidfd: RawFd = -1;
        // SAFETY: as fork(): the child continues with a copy of this memory and makes only system
        // calls. The kernel writes the descriptor to `pidfd`.
        let pid = unsafe {
            let none = ptr::null_mut::<libc::c_void>();
            libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none)
        };
        match pid {
            0 => ready.become_qemu(),
            pid if pid < 0 => Err(io::Error::last_os_error()),
            pid => Ok(Child::new(
                // SAFETY: the descriptor is new, and nobody else's.
                unsafe { OwnedFd::from_raw_fd(pidfd) },
                pid as u32,
            )),
        }
    }
}

/// Sets attributes of the mount whose root is the working directory (mount_setattr(2)).
fn set_attributes(set: u64, flags: libc::c_int) -> Result<(), Step> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string and the attributes have the size given; neither is kept.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c".".as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    check(result, "make the root read-only").map(drop)
}

/// What the child was doing when it couldn't continue.
type Step = &'static str;

fn check(result: libc::c_long, step: Step) -> Result<libc::c_long, Step> {
    if result < 0 { Err(step) } else { Ok(result) }
}

impl Ready {
    /// Runs in the child, and makes only system calls.
    fn become_qemu(&self) -> ! {
        // What is to be standard error, and then standard error itself.
        let mut messages = self.files.get(2).copied().unwrap_or(2);
        let entered = self.enter().and_then(|()| self.place_files());
        let step = match entered {
            Ok(binary) => {
                messages = 2;
                self.execute(binary)
            }
            Err(step) => step,
        };
        // SAFETY: reads this thread's errno.
        let mut rest = unsafe { *libc::__errno_location() };
        let mut digits = [b'0'; 3];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        for part in [
            b"nacre: can't ",
            step.as_bytes(),
            b": error ",
            &digits,
            b"\n",
        ] {
            // SAFETY: the pointer and the length are those of a slice.
            unsafe { libc::write(messages, part.as_ptr().cast(), part.len()) };
        }
        // SAFETY: ends the process without running any more of it.
        unsafe { libc::_exit(127) }
    }

    fn enter(&self) -> Result<(), Step> {
        self.end_with_the_parent()?;
        self.change_root()?;
        self.limit()?;
        // Changing the user undoes it.
        self.end_with_the_parent()
    }

    /// Executes the binary, under the filter; returns only if that fails.
    fn execute(&self, binary: RawFd) -> Step {
        if bpf::install(&self.filter) != 0 {
            return "filter system calls";
        }
        let environment = [ptr::null::<libc::c_char>()];
        // SAFETY: the arguments are pointers to strings that outlive the call, and end with a null,
        // as does the environment.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                binary,
                c"".as_ptr(),
                self.arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        "run QEMU"
    }

    /// Binds this process to its parent, which may have ended already.
    fn end_with_the_parent(&self) -> Result<(), Step> {
        match inherited::end_with(&self.parent) {
            Ok(true) => Ok(()),
            // SAFETY: ends the process without running any more of it.
            Ok(false) => unsafe { libc::_exit(127) },
            Err(_) => Err("be bound to the parent"),
        }
    }

    /// Makes the root, and changes to it.
    fn change_root(&self) -> Result<(), Step> {
        let step = "make a root";
        let private = libc::MS_REC | libc::MS_PRIVATE;
        mount(None, c"/", None, private, c"", step)?;
        let tmpfs = Some(c"tmpfs");
        let flags = SAFE | libc::MS_NOEXEC;
        mount(tmpfs, MOUNT_POINT, tmpfs, flags, c"mode=755,size=64k", step)?;
        // SAFETY: a string that ends with a NUL.
        check(unsafe { libc::chdir(MOUNT_POINT.as_ptr()) }.into(), step)?;
        for entry in &self.root {
            bring(entry)?;
        }
        let (proc, flags) = (Some(c"proc"), flags | libc::MS_RDONLY);
        let step = "mount /proc in the root";
        mount(proc, c"proc", proc, flags, c"subset=pid", step)?;
        let inert = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        set_attributes(inert, libc::AT_RECURSIVE)?;
        set_attributes(libc::MOUNT_ATTR_NOEXEC, 0)?;
        enter_root()
    }

    /// Changes to a user without any privilege, and sets limits: how many threads there are may be
    /// counted anew for that user.
    fn limit(&self) -> Result<(), Step> {
        self.become_nobody()?;
        for (resource, value) in self.limits {
            limits::lower(resource, value).map_err(|_| "limit resources")?;
        }
        inherited::leave_keyring().map_err(|_| "make a keyring")
    }

    /// Changes to the user, who has no capability and can't get any.
    fn become_nobody(&self) -> Result<(), Step> {
        let became = self.user.become_it();
        became.map_err(|_| "become an unprivileged user")?;
        // SAFETY: the signal set is valid for the calls.
        unsafe {
            // This program ignores SIGPIPE and blocks other signals; both would be inherited.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut nothing: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut nothing);
            libc::sigprocmask(libc::SIG_SETMASK, &nothing, ptr::null_mut());
        }
        Ok(())
    }

    /// Moves the files to their descriptors and closes all others except the binary's, which is
    /// closed when it is executed.
    fn place_files(&self) -> Result<RawFd, Step> {
        let step = "hand files over";
        let count = self.files.len() as RawFd;
        // First out of the way: a target may be another file's source.
        let above = |fd: RawFd| {
            // SAFETY: a plain call.
            let fd = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, count + 1) };
            check(fd.into(), step).map(|fd| fd as RawFd)
        };
        let binary = above(self.binary)?;
        let mut moved = [0; MAX_GIVEN];
        let moved = moved.get_mut(..self.files.len()).ok_or(step)?;
        for (slot, fd) in moved.iter_mut().zip(&self.files) {
            *slot = above(*fd)?;
        }
        for (target, fd) in (0..).zip(moved.iter()) {
            // SAFETY: plain calls on descriptors of this process.
            check(unsafe { libc::dup2(*fd, target) }.into(), step)?;
        }
        // SAFETY: as above; after this, nothing of this program is used except this thread.
        unsafe {
            check(libc::dup3(binary, count, libc::O_CLOEXEC).into(), step)?;
            let first = count as libc::c_uint + 1;
            check(
                libc::syscall(libc::SYS_close_range, first, u32::MAX, 0),
                step,
            )?;
        }
        Ok(count)
    }
}

/// What no mount of the root needs.
const SAFE: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

/// Mounts something (mount(2)).
fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: &CStr,
    step: Step,
) -> Result<(), Step> {
    let pointer = |string: Option<&CStr>| string.map_or(ptr::null(), CStr::as_ptr);
    let (source, kind) = (pointer(source), pointer(kind));
    // SAFETY: all pointers are to strings that end with a NUL, or null where the call accepts that.
    let result = unsafe { libc::mount(source, target.as_ptr(), kind, flags, data.as_ptr().cast()) };
    check(result.into(), step).map(drop)
}

/// Makes an entry of the root, which is the working directory.
fn bring(entry: &Entry) -> Result<(), Step> {
    let step = "bring libraries into the root";
    let bind = |host: &CStr, path: &CStr| mount(Some(host), path, None, libc::MS_BIND, c"", step);
    match entry {
        Entry::Empty { path } => {
            // SAFETY: a string that ends with a NUL.
            check(unsafe { libc::mkdir(path.as_ptr(), 0o755) }.into(), step)?;
        }
        Entry::Link { path, target } => {
            // SAFETY: both are strings that end with a NUL.
            let result = unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) };
            check(result.into(), step)?;
        }
        Entry::Directory { path, host } => bind(host, path)?,
        Entry::File { path, host } => {
            // SAFETY: a string that ends with a NUL.
            let made = unsafe { libc::mknod(path.as_ptr(), libc::S_IFREG | 0o444, 0) };
            check(made.into(), step)?;
            bind(host, path)?;
        }
    }
    Ok(())
}

/// Makes the working directory the root.
fn enter_root() -> Result<(), Step> {
    // SAFETY: plain calls with strings that end with a NUL. The old root ends up on top of the new
    // one, and is unmounted from there (pivot_root(2)).
    unsafe {
        let here = c".".as_ptr();
        check(
            libc::syscall(libc::SYS_pivot_root, here, here),
            "enter the root",
        )?;
        check(
            libc::umount2(here, libc::MNT_DETACH).into(),
            "leave the old root",
        )?;
        check(libc::chdir(c"/".as_ptr()).into(), "enter the root")?;
    }
    Ok(())
}
