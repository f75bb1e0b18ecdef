//! `linux.namespaces`: new ones, and those of others that are joined.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{FileStat, fstat, fstatat, stat};
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::config::ConfigError;
use super::error::{InitError, Step};
use super::procfs::Proc;
use super::sys::setns_of_process;

/// nix doesn't have this one. It is for `unshare` and `setns` only: clone3 takes the bit, clone
/// can't.
const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// The namespaces of a container.
#[derive(Debug)]
pub(super) struct Namespaces {
    new: CloneFlags,
    joined: Vec<Joined>,
    /// As `/proc/self/timens_offsets` takes it.
    time_offsets: String,
}

#[derive(Debug)]
struct Joined {
    kind: LinuxNamespaceType,
    path: PathBuf,
    file: File,
}

/// A namespace that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// One of `linux.namespaces` with a path can't be joined.
    #[error("can't join the {kind} namespace of {}", path.display())]
    Join {
        /// What kind it should be of.
        kind: LinuxNamespaceType,
        /// Its path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A process can't be made in a user namespace.
    #[error("can't make a process in the container's user namespace{hint}")]
    User {
        /// What the host's settings say to it.
        hint: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A time namespace can't be made, or not with `linux.timeOffsets`.
    #[error("can't {step}")]
    Time {
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

fn is_own_user(file: &File) -> bool {
    let (file, own) = (fstat(file), stat("/proc/self/ns/user"));
    matches!((file, own), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// The `CLONE_NEW*` of a kind.
fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    // The enum's values are the kernel's.
    CloneFlags::from_bits_retain(kind as i32)
}

impl Namespaces {
    /// Opens those of `linux` that are to be joined.
    pub(super) fn open(linux: &Linux) -> Result<Self, NamespaceError> {
        let mut new = CloneFlags::empty();
        let mut joined = Vec::new();
        for namespace in linux.namespaces().iter().flatten() {
            let kind = namespace.typ();
            let Some(path) = namespace
                .path()
                .clone()
                .filter(|p| !p.as_os_str().is_empty())
            else {
                new |= flag(kind);
                continue;
            };
            // A path to a FIFO must not make us wait.
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(&path);
            match file {
                // One can't enter one's own again.
                Ok(file) if kind == LinuxNamespaceType::User && is_own_user(&file) => {}
                Ok(file) => joined.push(Joined { kind, path, file }),
                Err(source) => return Err(NamespaceError::Join { kind, path, source }),
            }
        }
        Ok(Namespaces {
            new,
            joined,
            time_offsets: offsets(linux),
        })
    }

    /// Whether there is a new one of this kind.
    pub(super) fn has_new(&self, kind: LinuxNamespaceType) -> bool {
        self.new.contains(flag(kind))
    }

    /// Whether there is a user namespace that isn't the caller's.
    pub(super) fn has_user(&self) -> bool {
        self.has_new(LinuxNamespaceType::User) || self.joins(LinuxNamespaceType::User)
    }

    fn joins(&self, kind: LinuxNamespaceType) -> bool {
        self.joined.iter().any(|joined| joined.kind == kind)
    }

    /// The pid namespace that is joined.
    pub(super) fn joined_pid(&self) -> Option<&File> {
        let mut joined = self.joined.iter();
        let pid = joined.find(|joined| joined.kind == LinuxNamespaceType::Pid);
        pid.map(|pid| &pid.file)
    }

    /// Whether there are others already where the init is to be, who could look into it.
    pub(super) fn have_company(&self) -> bool {
        self.joins(LinuxNamespaceType::Pid)
    }

    /// Whether the namespace of this kind that is joined has this file.
    pub(super) fn joins_file(&self, kind: LinuxNamespaceType, status: &FileStat) -> bool {
        let same = |file| {
            fstat(file).is_ok_and(|s| (s.st_dev, s.st_ino) == (status.st_dev, status.st_ino))
        };
        let mut joined = self.joined.iter();
        joined.any(|joined| joined.kind == kind && same(&joined.file))
    }

    /// Whether the init has to be cloned from a stage ([`Namespaces::enter_as_stage`]): in a
    /// user namespace that is joined, or by one who has joined what the root of a new one has
    /// no right to.
    pub(super) fn need_stage(&self) -> bool {
        self.has_user() && !self.joined.is_empty() && !self.have_company()
    }

    /// Those that the init is cloned into.
    pub(super) fn clone_flags(&self) -> u64 {
        // The root of a new cgroup namespace is the cgroup of the process that asks for it,
        // and that of a clone is its parent's: it has to ask by itself, later. And the offsets
        // of a time namespace must be set before there is a process in it.
        let later = CloneFlags::CLONE_NEWCGROUP | NEW_TIME;
        (self.new - later).bits() as u32 as u64
    }

    /// The engine, around the clone: a time namespace that one makes is for the children that one
    /// has from then on. With a stage there is nothing to do here.
    pub(super) fn set_for_children(&self) -> Result<ForChildren, NamespaceError> {
        let mut changed = ForChildren { own: Vec::new() };
        if self.need_stage() || self.have_company() {
            return Ok(changed);
        }
        // The new user namespace's root makes its own.
        if self.has_new(LinuxNamespaceType::Time) && !self.has_new(LinuxNamespaceType::User) {
            let failed = |step, source| NamespaceError::Time { step, source };
            let own = File::open("/proc/self/ns/time")
                .map_err(|e| failed("open this process's time namespace", e))?;
            changed.own.push((own, NEW_TIME));
            self.make_time().map_err(|(step, e)| failed(step, e))?;
        }
        Ok(changed)
    }

    /// Makes a time namespace for the children that this process has from then on.
    fn make_time(&self) -> Result<(), (&'static str, io::Error)> {
        unshare(NEW_TIME).map_err(|e| ("make a time namespace", e.into()))?;
        if self.time_offsets.is_empty() {
            return Ok(());
        }
        fs::write("/proc/self/timens_offsets", &self.time_offsets)
            .map_err(|e| ("set linux.timeOffsets", e))
    }

    /// The stage: enters those that the init is cloned from.
    pub(super) fn enter_as_stage(&self) -> Result<(), InitError> {
        if self.has_new(LinuxNamespaceType::Time) && !self.has_new(LinuxNamespaceType::User) {
            self.make_time().or_else(|(step, e)| Err(e).step(|| step))?;
        }
        self.join(|_| true)
    }

    /// Joins those of `kinds`. To some one has the right only in the user namespace that is
    /// joined, and to others only before.
    fn join(&self, kinds: impl Fn(LinuxNamespaceType) -> bool) -> Result<(), InitError> {
        let asked_for = self.joined.iter().filter(|joined| kinds(joined.kind));
        let (user, rest): (Vec<&Joined>, Vec<&Joined>) =
            asked_for.partition(|joined| joined.kind == LinuxNamespaceType::User);
        if user.is_empty() {
            return rest.into_iter().try_for_each(Joined::enter);
        }
        let later: Vec<&Joined> = rest.into_iter().filter(|j| j.enter().is_err()).collect();
        user.into_iter().chain(later).try_for_each(Joined::enter)
    }

    /// Who opens a proc file system in the pid namespace: joins that, for its children. Whether a
    /// user namespace was joined, too.
    pub(super) fn enter_pid(&self) -> Result<bool, InitError> {
        use LinuxNamespaceType::{Pid, User};
        self.join(|kind| matches!(kind, User | Pid))?;
        Ok(self.joins(User))
    }

    /// The process outside of a pid namespace that is joined: joins the others, and makes the new
    /// ones. That one it joins for its children, so it is left for later, unless it has no right
    /// to it then.
    pub(super) fn enter_outside(&self) -> Result<(), InitError> {
        let time_is_the_callers = !self.has_new(LinuxNamespaceType::User);
        if self.has_new(LinuxNamespaceType::Time) && time_is_the_callers {
            self.make_time().or_else(|(step, e)| Err(e).step(|| step))?;
        }
        let pid_now = self.must_join_pid_early();
        self.join(|kind| pid_now || kind != LinuxNamespaceType::Pid)?;
        let later = CloneFlags::CLONE_NEWCGROUP | NEW_TIME;
        unshare(self.new - later).step(|| "make the container's namespaces")
    }

    /// Whether the right to a pid namespace that is joined is lost with the caller's.
    pub(super) fn must_join_pid_early(&self) -> bool {
        let file = |kind| self.joined.iter().find(|joined| joined.kind == kind);
        let Some(pid) = file(LinuxNamespaceType::Pid) else {
            return false;
        };
        match file(LinuxNamespaceType::User) {
            Some(user) => !belongs_to(&pid.file, &user.file),
            None => self.has_user(),
        }
    }

    /// The process outside, when it makes no other children any more.
    pub(super) fn enter_pid_late(&self) -> Result<(), InitError> {
        let late = !self.must_join_pid_early();
        self.join(|kind| late && kind == LinuxNamespaceType::Pid)
    }

    /// As [`Namespaces::enter_time`], for the process outside, whose child is in it.
    pub(super) fn make_time_outside(&self) -> Result<(), InitError> {
        if !self.has_new(LinuxNamespaceType::Time) || !self.has_new(LinuxNamespaceType::User) {
            return Ok(());
        }
        self.make_time().or_else(|(step, e)| Err(e).step(|| step))
    }

    /// The root of a new user namespace, while it is still as accessible as the caller: makes
    /// the time namespace, and enters it.
    pub(super) fn enter_time(&self) -> Result<(), InitError> {
        if !self.has_new(LinuxNamespaceType::Time) || !self.has_new(LinuxNamespaceType::User) {
            return Ok(());
        }
        self.make_time().or_else(|(step, e)| Err(e).step(|| step))?;
        let step = || "enter the new time namespace";
        let time = File::open("/proc/self/ns/time_for_children").step(step)?;
        setns(time, NEW_TIME).step(step)
    }

    /// The init: enters what the clone left to do.
    pub(super) fn enter(&self) -> Result<(), InitError> {
        if !self.need_stage() && !self.have_company() {
            self.join(|_| true)?;
        }
        if self.has_new(LinuxNamespaceType::Cgroup) {
            unshare(CloneFlags::CLONE_NEWCGROUP).step(|| "make a cgroup namespace")?;
        }
        Ok(())
    }
}

/// Whether a namespace belongs to a user namespace
/// ([ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html)).
fn belongs_to(namespace: &File, user: &File) -> bool {
    // SAFETY: the request takes nothing.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS as _) };
    if owner < 0 {
        return false;
    }
    // SAFETY: the descriptor was just made, and nothing else knows of it.
    let owner = unsafe { OwnedFd::from_raw_fd(owner) };
    let (owner, user) = (fstat(owner), fstat(user));
    matches!((owner, user), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

impl Joined {
    fn enter(&self) -> Result<(), InitError> {
        let Joined { kind, path, file } = self;
        setns(file, flag(*kind)).step(|| format!("join the {kind} namespace of {}", path.display()))
    }
}

/// Every kind, and its file's name below `/proc/PID/ns`.
const KINDS: [(CloneFlags, &str); 8] = [
    (CloneFlags::CLONE_NEWUSER, "user"),
    (CloneFlags::CLONE_NEWNS, "mnt"),
    (CloneFlags::CLONE_NEWPID, "pid"),
    (CloneFlags::CLONE_NEWNET, "net"),
    (CloneFlags::CLONE_NEWIPC, "ipc"),
    (CloneFlags::CLONE_NEWUTS, "uts"),
    (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
    (NEW_TIME, "time"),
];

/// The namespaces of another process that aren't this process's own.
#[derive(Debug)]
pub(super) struct Others<'a> {
    process: BorrowedFd<'a>,
    kinds: CloneFlags,
}

impl<'a> Others<'a> {
    /// Those of the process `pid`, of which `process` is a pidfd. To enter one's own again may
    /// need rights that one lacks.
    pub(super) fn of(proc: &Proc, pid: Pid, process: BorrowedFd<'a>) -> nix::Result<Self> {
        let mut kinds = CloneFlags::empty();
        for (kind, name) in KINDS {
            let look = |of: &str| {
                let file = format!("{of}/ns/{name}");
                let status = fstatat(proc, file.as_str(), AtFlags::empty())?;
                Ok((status.st_dev, status.st_ino))
            };
            let own = match look("self") {
                // The kernel has no such kind.
                Err(Errno::ENOENT) => continue,
                other => other?,
            };
            if look(&pid.to_string())? != own {
                kinds |= kind;
            }
        }
        Ok(Others { process, kinds })
    }

    /// Whether its user namespace is among them.
    pub(super) fn have_user(&self) -> bool {
        self.kinds.contains(CloneFlags::CLONE_NEWUSER)
    }

    /// Enters all of them, the pid namespace for this process's children.
    pub(super) fn enter(&self) -> Result<(), InitError> {
        if self.kinds.is_empty() {
            return Ok(());
        }
        setns_of_process(self.process, self.kinds).step(|| "enter the container's namespaces")
    }
}

/// Puts this process's later children back into its own namespaces when dropped.
pub(super) struct ForChildren {
    own: Vec<(File, CloneFlags)>,
}

impl Drop for ForChildren {
    fn drop(&mut self) {
        for (own, kind) in &self.own {
            // Going back to where one is can't be refused: it needs only what leaving needed.
            let _ = setns(own, *kind);
        }
    }
}

/// `linux.timeOffsets` as lines of a clock, seconds and nanoseconds
/// ([time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html)).
pub(super) fn offsets(linux: &Linux) -> String {
    linux
        .time_offsets()
        .iter()
        .flatten()
        .map(|(clock, offset)| {
            let (seconds, nanoseconds) = (offset.secs(), offset.nanosecs());
            let nanoseconds = nanoseconds.unwrap_or(0);
            format!("{clock} {} {nanoseconds}\n", seconds.unwrap_or(0))
        })
        .collect()
}

/// Checks `linux.timeOffsets`.
pub(super) fn validate_time_offsets(linux: &Linux) -> Result<(), ConfigError> {
    let mut namespaces = linux.namespaces().iter().flatten();
    // Those of a namespace that is joined are what they are.
    let has_new = namespaces.any(|n| {
        n.typ() == LinuxNamespaceType::Time && n.path().iter().all(|p| p.as_os_str().is_empty())
    });
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let field = format!("linux.timeOffsets.{clock}");
        if !has_new {
            let problem = "it needs a new time namespace, which the container lacks";
            return Err(ConfigError::invalid(field, problem));
        }
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            let problem = "it isn't a clock that can be set off (monotonic or boottime)";
            return Err(ConfigError::invalid(field, problem));
        }
        if let Some(over) = offset.nanosecs().filter(|n| *n > 999_999_999) {
            let problem = format!("{over} nanoseconds are over a second");
            return Err(ConfigError::invalid(field, problem));
        }
    }
    Ok(())
}
