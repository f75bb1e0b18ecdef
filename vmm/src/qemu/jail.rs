//! The jail that QEMU runs in.
//!
//! QEMU emulates a hostile guest's processor, so it is held like one that has been taken over.
//! Before its first instruction it has: namespaces of its own (mount, network, IPC, UTS, PID), a
//! root with nothing in it but its shared libraries and modules, read-only, and a `/proc` that
//! shows itself ([`root`]); a user and a group that nothing else has, no capabilities and no way to any
//! (`no_new_privs`); the descriptors that it is given and no other; and limits. Its own system
//! call filter comes on top ([`command`](super::command)).
//!
//! It gets `SIGKILL` when the thread that made it ends, by whatever that ends (prctl(2),
//! `PR_SET_PDEATHSIG`).
//!
//! Everything is made ready before the fork: the child of a process that may have threads may
//! only make system calls.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::{Duration, Instant};

use super::root::{self, Entry};

/// Where the tmpfs that becomes the root is mounted first. Every host has it.
const MOUNT_POINT: &CStr = c"/proc";

/// How often it is looked at whether it stands still.
const STOP_INTERVAL: Duration = Duration::from_millis(1);

/// The user and the group of a QEMU: its parent's pid above this. No distribution gives such
/// ids to anybody, and two QEMUs never have the same.
pub(super) const FIRST_USER: u32 = 0x6e00_0000;

/// How many threads QEMU has besides the vCPUs', generously.
const OTHER_THREADS: u64 = 16;

/// How many descriptors it starts with, at most.
const MAX_GIVEN: usize = 32;

/// What QEMU is started with.
pub(super) struct Jail<'a> {
    pub(super) binary: BorrowedFd<'a>,
    /// The binary's path, beside which it looks for modules of its own.
    pub(super) path: &'a Path,
    /// What its loader loads.
    pub(super) libraries: &'a [PathBuf],
    pub(super) arguments: Vec<CString>,
    /// Its descriptors, from 0 on.
    pub(super) files: Vec<BorrowedFd<'a>>,
    pub(super) vcpus: u8,
    /// How many files it can have open.
    pub(super) max_files: u64,
}

/// All that the child needs, ready.
struct Ready {
    files: Vec<RawFd>,
    binary: RawFd,
    parent: OwnedFd,
    arguments: Vec<*const libc::c_char>,
    root: Vec<Entry>,
    user: u32,
    limits: [(libc::__rlimit_resource_t, u64); 4],
}

impl Jail<'_> {
    /// Starts QEMU. What fails in the child is said on its standard error.
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
            user: FIRST_USER + own,
            limits: [
                (libc::RLIMIT_CORE, 0),
                // It writes no files; memory has its size.
                (libc::RLIMIT_FSIZE, 0),
                (libc::RLIMIT_NOFILE, self.max_files),
                (libc::RLIMIT_NPROC, u64::from(self.vcpus) + OTHER_THREADS),
            ],
        };
        let flags = libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWPID
            | libc::CLONE_PIDFD
            | libc::SIGCHLD;
        let mut pidfd: RawFd = -1;
        // SAFETY: as fork(): the child goes on with a copy of this memory and makes only system
        // calls. The kernel writes the descriptor to `pidfd`.
        let pid = unsafe {
            let none = ptr::null_mut::<libc::c_void>();
            libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none)
        };
        match pid {
            0 => ready.become_qemu(),
            pid if pid < 0 => Err(io::Error::last_os_error()),
            // SAFETY: the descriptor is new, and nobody else's.
            _ => Ok(Child(unsafe { OwnedFd::from_raw_fd(pidfd) })),
        }
    }
}

/// Sets attributes of the mount that the working directory is the root of (mount_setattr(2)).
fn set_attributes(set: u64, flags: libc::c_int) -> Result<(), Step> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string and attributes of the size that is given; neither is kept.
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

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers; the descriptor is new, and nobody else's.
    unsafe {
        match libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) {
            fd if fd < 0 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd as RawFd)),
        }
    }
}

/// Why the child can't go on: what it was doing.
type Step = &'static str;

fn check(result: libc::c_long, step: Step) -> Result<libc::c_long, Step> {
    if result < 0 { Err(step) } else { Ok(result) }
}

impl Ready {
    /// Runs in the child, and makes nothing but system calls.
    fn become_qemu(&self) -> ! {
        // Standard error to be, and then standard error.
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
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(127) }
    }

    fn enter(&self) -> Result<(), Step> {
        self.end_with_the_parent()?;
        self.change_root()?;
        self.limit()?;
        // Becoming another user undoes it.
        self.end_with_the_parent()
    }

    /// Executes the binary; comes back if that can't be done.
    fn execute(&self, binary: RawFd) -> Step {
        let environment = [ptr::null::<libc::c_char>()];
        // SAFETY: the arguments are pointers to strings that live on, and end with a null, as
        // the environment does.
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

    /// Has the kernel kill this process when its parent ends, which may have happened already;
    /// keeps it out of the parent's terminal, whose signals aren't for it.
    fn end_with_the_parent(&self) -> Result<(), Step> {
        let step = "be bound to the parent";
        let mut parent = libc::pollfd {
            fd: self.parent.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: plain calls; one `pollfd` is passed, as the count says. A process that leads
        // a session already can't begin another, which is no matter.
        unsafe {
            libc::setsid();
            check(
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into(),
                step,
            )?;
            match check(libc::poll(&mut parent, 1, 0).into(), step)? {
                0 => Ok(()),
                _ => libc::_exit(127),
            }
        }
    }

    /// Makes the root, and goes there.
    fn change_root(&self) -> Result<(), Step> {
        let step = "make a root";
        let none = ptr::null::<libc::c_char>();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let safe = libc::MS_NOSUID | libc::MS_NODEV;
        let mount = |source: *const libc::c_char,
                     target: &CStr,
                     kind: *const libc::c_char,
                     flags: libc::c_ulong,
                     data: &CStr,
                     step: Step| {
            // SAFETY: all pointers are to strings that end with a NUL, or null where the call
            // takes that.
            let result =
                unsafe { libc::mount(source, target.as_ptr(), kind, flags, data.as_ptr().cast()) };
            check(result.into(), step)
        };
        mount(none, c"/", none, private, c"", step)?;
        let tmpfs = c"tmpfs".as_ptr();
        mount(
            tmpfs,
            MOUNT_POINT,
            tmpfs,
            safe | libc::MS_NOEXEC,
            c"mode=755,size=64k",
            step,
        )?;
        // SAFETY: a string that ends with a NUL.
        check(unsafe { libc::chdir(MOUNT_POINT.as_ptr()) }.into(), step)?;
        for entry in &self.root {
            let step = "bring libraries into the root";
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
                Entry::Directory { path, host } => {
                    mount(host.as_ptr(), path, none, libc::MS_BIND, c"", step)?;
                }
                Entry::File { path, host } => {
                    // SAFETY: a string that ends with a NUL.
                    let made = unsafe { libc::mknod(path.as_ptr(), libc::S_IFREG | 0o444, 0) };
                    check(made.into(), step)?;
                    mount(host.as_ptr(), path, none, libc::MS_BIND, c"", step)?;
                }
            }
        }
        let proc = c"proc".as_ptr();
        let flags = safe | libc::MS_NOEXEC | libc::MS_RDONLY;
        mount(
            proc,
            c"proc",
            proc,
            flags,
            c"subset=pid",
            "mount /proc in the root",
        )?;
        let inert = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        set_attributes(inert, libc::AT_RECURSIVE)?;
        set_attributes(libc::MOUNT_ATTR_NOEXEC, 0)?;
        // SAFETY: plain calls with strings that end with a NUL. The old root ends up on top of
        // the new one, and is taken away from there (pivot_root(2)).
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

    /// Limits, and another user without any privilege.
    fn limit(&self) -> Result<(), Step> {
        for (resource, value) in self.limits {
            let limit = libc::rlimit {
                rlim_cur: value,
                rlim_max: value,
            };
            // SAFETY: `limit` is valid for the call.
            let result = unsafe { libc::setrlimit(resource, &limit) };
            check(result.into(), "limit resources")?;
        }
        let (user, step) = (self.user, "become an unprivileged user");
        // System calls of this thread, which is the only one: glibc's functions would look for
        // others. SAFETY: no pointers but a null that goes with a count of 0; the signal set is
        // valid for the call.
        unsafe {
            let none = ptr::null::<libc::gid_t>();
            check(libc::syscall(libc::SYS_setgroups, 0, none), step)?;
            check(libc::syscall(libc::SYS_setresgid, user, user, user), step)?;
            check(libc::syscall(libc::SYS_setresuid, user, user, user), step)?;
            check(
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(),
                step,
            )?;
            // This program ignores SIGPIPE and blocks others; both would be inherited.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut nothing: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut nothing);
            libc::sigprocmask(libc::SIG_SETMASK, &nothing, ptr::null_mut());
        }
        Ok(())
    }

    /// Puts the files at their descriptors and closes all others but the binary's, which goes
    /// when it is executed.
    fn place_files(&self) -> Result<RawFd, Step> {
        let step = "hand files over";
        let count = self.files.len() as RawFd;
        // Out of the way first: a target may be another's source.
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
        // SAFETY: as above; nothing of this program is used after it but this thread.
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

/// How QEMU ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(i32),
    Killed(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exited(status) => write!(f, "exited with status {status}"),
            Ended::Killed(libc::SIGKILL) => f.write_str("was killed by SIGKILL"),
            Ended::Killed(libc::SIGSEGV) => f.write_str("was killed by SIGSEGV"),
            Ended::Killed(libc::SIGSYS) => {
                f.write_str("was killed by its system call filter (SIGSYS)")
            }
            Ended::Killed(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// QEMU's process, by a descriptor that stands for no other. Readable once it has ended.
pub(super) struct Child(OwnedFd);

impl Child {
    /// Kills it, if it hasn't ended.
    pub(super) fn kill(&self) {
        // Nothing else can go wrong.
        let _ = self.signal(libc::SIGKILL);
    }

    /// Stops it (SIGSTOP), and waits until it stands still or has ended, at most for `limit`;
    /// whether it does.
    pub(super) fn stop(&self, limit: Duration) -> io::Result<bool> {
        self.signal(libc::SIGSTOP)?;
        let end = Instant::now() + limit;
        while Instant::now() < end {
            // SAFETY: siginfo_t is plain data, for which zeros are valid, and the call fills it
            // in. Nothing is reaped by it.
            let (found, pid) = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let id = self.0.as_raw_fd() as libc::id_t;
                let how = libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
                let found = libc::waitid(libc::P_PIDFD, id, &mut info, how);
                (found, info.si_pid())
            };
            match found {
                0 if pid != 0 => return Ok(true),
                0 => std::thread::sleep(STOP_INTERVAL),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    // The watch has reaped it.
                    error if error.raw_os_error() == Some(libc::ECHILD) => return Ok(true),
                    error => return Err(error),
                },
            }
        }
        Ok(false)
    }

    /// Sends it a signal, if it hasn't ended.
    pub(super) fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        // SAFETY: a null siginfo is what the call is told to do without.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match sent {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                // The watch has reaped it.
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Says how it ended, once it has.
    pub(super) fn reap(&self) -> io::Result<Ended> {
        // SAFETY: siginfo_t is plain data, for which zeros are valid, and the call fills it in;
        // its fields are those of SIGCHLD.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let id = self.0.as_raw_fd() as libc::id_t;
            while libc::waitid(libc::P_PIDFD, id, &mut info, libc::WEXITED) < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Ok(match info.si_code {
                libc::CLD_EXITED => Ended::Exited(info.si_status()),
                _ => Ended::Killed(info.si_status()),
            })
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
