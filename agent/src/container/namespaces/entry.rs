//! `linux.namespaces`: makes new ones and joins existing ones.

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

use crate::container::config::time_offsets::offsets;
use crate::container::error::{Step, StepError};
use crate::container::kernel::procfs::Proc;
use crate::container::kernel::sys::setns_of_process;

/// nix doesn't have this flag. It is only for `unshare` and `setns`: clone3 takes the bit, clone
/// can't.
const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// The namespaces of a container.
#[derive(Debug)]
pub(crate) struct Namespaces {
    new: CloneFlags,
    joined: Vec<JoinedNamespace>,
    /// The lines that `/proc/self/timens_offsets` takes.
    time_offsets: String,
}

#[derive(Debug)]
struct JoinedNamespace {
    kind: LinuxNamespaceType,
    path: PathBuf,
    file: File,
}

/// Why a namespace can't be made or joined.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// One of `linux.namespaces` with a path can't be joined.
    #[error("can't join the {kind} namespace of {}", path.display())]
    Join {
        /// The kind that it should have.
        kind: LinuxNamespaceType,
        /// Its path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A process can't be made in a user namespace.
    #[error("can't make a process in the container's user namespace{hint}")]
    User {
        /// The host's setting that explains it, if there is one.
        hint: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A time namespace can't be made, or can't get `linux.timeOffsets`.
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

/// Returns the `CLONE_NEW*` flag of a kind.
fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    // The enum's values are the kernel's.
    CloneFlags::from_bits_retain(kind as i32)
}

impl Namespaces {
    /// Opens the namespaces of `linux` that are to be joined.
    pub(crate) fn open(linux: &Linux) -> Result<Self, NamespaceError> {
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
            // A path to a FIFO must not block us.
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(&path);
            match file {
                // A process can't enter its own user namespace again.
                Ok(file) if kind == LinuxNamespaceType::User && is_own_user(&file) => {}
                Ok(file) => joined.push(JoinedNamespace { kind, path, file }),
                Err(source) => return Err(NamespaceError::Join { kind, path, source }),
            }
        }
        Ok(Namespaces {
            new,
            joined,
            time_offsets: offsets(linux),
        })
    }

    /// Whether there is a new namespace of this kind.
    pub(crate) fn has_new(&self, kind: LinuxNamespaceType) -> bool {
        self.new.contains(flag(kind))
    }

    /// Whether there is a user namespace that isn't the caller's.
    pub(crate) fn has_user(&self) -> bool {
        self.has_new(LinuxNamespaceType::User) || self.joins(LinuxNamespaceType::User)
    }

    fn joins(&self, kind: LinuxNamespaceType) -> bool {
        self.joined(kind).is_some()
    }

    /// Returns the pid namespace to join.
    pub(crate) fn joined_pid(&self) -> Option<&File> {
        self.joined(LinuxNamespaceType::Pid)
    }

    /// Returns the user namespace to join.
    pub(crate) fn joined_user(&self) -> Option<&File> {
        self.joined(LinuxNamespaceType::User)
    }

    fn joined(&self, kind: LinuxNamespaceType) -> Option<&File> {
        let mut joined = self.joined.iter();
        joined.find(|joined| joined.kind == kind).map(|j| &j.file)
    }

    /// Whether the init's pid namespace already has other processes, which could look into it.
    pub(crate) fn have_company(&self) -> bool {
        self.joins(LinuxNamespaceType::Pid)
    }

    /// Whether the namespace of this kind that is joined is this file.
    pub(crate) fn joins_file(&self, kind: LinuxNamespaceType, status: &FileStat) -> bool {
        let same = |file| {
            fstat(file).is_ok_and(|s| (s.st_dev, s.st_ino) == (status.st_dev, status.st_ino))
        };
        let mut joined = self.joined.iter();
        joined.any(|joined| joined.kind == kind && same(&joined.file))
    }

    /// Whether the init has to be cloned from a stage ([`Namespaces::enter_as_stage`]): in a joined
    /// user namespace, or by a process that has joined namespaces to which the root of a new one
    /// has no right.
    pub(crate) fn need_stage(&self) -> bool {
        self.has_user() && !self.joined.is_empty() && !self.have_company()
    }

    /// Returns the flags of the namespaces that the init is cloned into.
    pub(crate) fn clone_flags(&self) -> u64 {
        // The root of a new cgroup namespace is the cgroup of the process that asks for it, and for
        // a clone that is its parent's: the init has to ask for it itself, later. And the offsets
        // of a time namespace must be set before there is a process in it.
        let later = CloneFlags::CLONE_NEWCGROUP | NEW_TIME;
        (self.new - later).bits() as u32 as u64
    }

    /// The engine, around the clone: makes the time namespace, which applies to children made from
    /// then on. With a stage there is nothing to do here.
    pub(crate) fn set_for_children(&self) -> Result<ForChildren, NamespaceError> {
        let mut changed = ForChildren { own: Vec::new() };
        if self.need_stage() || self.have_company() {
            return Ok(changed);
        }
        // The new user namespace's root makes its own time namespace.
        if self.has_new(LinuxNamespaceType::Time) && !self.has_new(LinuxNamespaceType::User) {
            let failed = |step, source| NamespaceError::Time { step, source };
            let own = File::open("/proc/self/ns/time")
                .map_err(|e| failed("open this process's time namespace", e))?;
            changed.own.push((own, NEW_TIME));
            self.make_time().map_err(|(step, e)| failed(step, e))?;
        }
        Ok(changed)
    }

    /// Makes a time namespace for the children that this process makes from then on.
    fn make_time(&self) -> Result<(), (&'static str, io::Error)> {
        unshare(NEW_TIME).map_err(|e| ("make a time namespace", e.into()))?;
        if self.time_offsets.is_empty() {
            return Ok(());
        }
        fs::write("/proc/self/timens_offsets", &self.time_offsets)
            .map_err(|e| ("set linux.timeOffsets", e))
    }

    /// The stage: enters the namespaces that the init is cloned from.
    pub(crate) fn enter_as_stage(&self) -> Result<(), StepError> {
        if self.has_new(LinuxNamespaceType::Time) && !self.has_new(LinuxNamespaceType::User) {
            self.make_time().or_else(|(step, e)| Err(e).step(|| step))?;
        }
        self.join(|_| true)
    }

    /// Joins the namespaces of `kinds`. Some can be joined only from inside the joined user
    /// namespace, others only before entering it.
    fn join(&self, kinds: impl Fn(LinuxNamespaceType) -> bool) -> Result<(), StepError> {
        let asked_for = self.joined.iter().filter(|joined| kinds(joined.kind));
        let (user, rest): (Vec<&JoinedNamespace>, Vec<&JoinedNamespace>) =
            asked_for.partition(|joined| joined.kind == LinuxNamespaceType::User);
        if user.is_empty() {
            return rest.into_iter().try_for_each(JoinedNamespace::enter);
        }
        let later: Vec<&JoinedNamespace> =
            rest.into_iter().filter(|j| j.enter().is_err()).collect();
        user.into_iter()
            .chain(later)
            .try_for_each(JoinedNamespace::enter)
    }

    /// For opening a proc file system in the pid namespace: joins that, for this process's
    /// children. Returns whether it joined a user namespace too.
    pub(crate) fn enter_pid(&self) -> Result<bool, StepError> {
        use LinuxNamespaceType::{Pid, User};
        self.join(|kind| matches!(kind, User | Pid))?;
        Ok(self.joins(User))
    }

    /// The process outside of a joined pid namespace: joins the others, and makes the new ones. It
    /// joins the pid namespace for its children, so later, unless it will have no right to it then.
    pub(crate) fn enter_outside(&self) -> Result<(), StepError> {
        let time_is_the_callers = !self.has_new(LinuxNamespaceType::User);
        if self.has_new(LinuxNamespaceType::Time) && time_is_the_callers {
            self.make_time().or_else(|(step, e)| Err(e).step(|| step))?;
        }
        let pid_now = self.must_join_pid_early();
        self.join(|kind| pid_now || kind != LinuxNamespaceType::Pid)?;
        let later = CloneFlags::CLONE_NEWCGROUP | NEW_TIME;
        unshare(self.new - later).step(|| "make the container's namespaces")
    }

    /// Whether the right to the joined pid namespace is lost with the caller's rights.
    pub(crate) fn must_join_pid_early(&self) -> bool {
        let Some(pid) = self.joined_pid() else {
            return false;
        };
        match self.joined_user() {
            Some(user) => !belongs_to(pid, user),
            None => self.has_user(),
        }
    }

    /// The process outside, when it makes no other children any more: joins the pid namespace,
    /// unless it has done so already.
    pub(crate) fn enter_pid_late(&self) -> Result<(), StepError> {
        let late = !self.must_join_pid_early();
        self.join(|kind| late && kind == LinuxNamespaceType::Pid)
    }

    /// As [`Namespaces::enter_time`], for the process outside, whose child is in the namespace.
    pub(crate) fn make_time_outside(&self) -> Result<(), StepError> {
        if !self.has_new(LinuxNamespaceType::Time) || !self.has_new(LinuxNamespaceType::User) {
            return Ok(());
        }
        self.make_time().or_else(|(step, e)| Err(e).step(|| step))
    }

    /// The root of a new user namespace, while it is still as accessible as the caller: makes
    /// the time namespace, and enters it.
    pub(crate) fn enter_time(&self) -> Result<(), StepError> {
        if !self.has_new(LinuxNamespaceType::Time) || !self.has_new(LinuxNamespaceType::User) {
            return Ok(());
        }
        self.make_time().or_else(|(step, e)| Err(e).step(|| step))?;
        let step = || "enter the new time namespace";
        let time = File::open("/proc/self/ns/time_for_children").step(step)?;
        setns(time, NEW_TIME).step(step)
    }

    /// The init: enters the namespaces that the clone didn't.
    pub(crate) fn enter(&self) -> Result<(), StepError> {
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
    // SAFETY: the request takes no argument.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS as _) };
    if owner < 0 {
        return false;
    }
    // SAFETY: the descriptor was just made, and nothing else knows of it.
    let owner = unsafe { OwnedFd::from_raw_fd(owner) };
    let (owner, user) = (fstat(owner), fstat(user));
    matches!((owner, user), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

impl JoinedNamespace {
    fn enter(&self) -> Result<(), StepError> {
        let JoinedNamespace { kind, path, file } = self;
        setns(file, flag(*kind)).step(|| format!("join the {kind} namespace of {}", path.display()))
    }
}

/// Every kind, and the name of its file below `/proc/PID/ns`.
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
pub(crate) struct OtherNamespaces<'a> {
    process: BorrowedFd<'a>,
    kinds: CloneFlags,
}

impl<'a> OtherNamespaces<'a> {
    /// Finds those of the process `pid`, of which `process` is a pidfd. Entering its own namespaces
    /// again may need rights that a process lacks.
    pub(crate) fn of_process(proc: &Proc, pid: Pid, process: BorrowedFd<'a>) -> nix::Result<Self> {
        let mut kinds = CloneFlags::empty();
        for (kind, name) in KINDS {
            let look = |of: &str| {
                let file = format!("{of}/ns/{name}");
                let status = fstatat(proc, file.as_str(), AtFlags::empty())?;
                Ok((status.st_dev, status.st_ino))
            };
            let own = match look("self") {
                // The kernel doesn't have this kind.
                Err(Errno::ENOENT) => continue,
                other => other?,
            };
            if look(&pid.to_string())? != own {
                kinds |= kind;
            }
        }
        Ok(OtherNamespaces { process, kinds })
    }

    /// Whether its user namespace is among them.
    pub(crate) fn have_user(&self) -> bool {
        self.kinds.contains(CloneFlags::CLONE_NEWUSER)
    }

    /// Enters all of them; the pid namespace for this process's children.
    pub(crate) fn enter(&self) -> Result<(), StepError> {
        if self.kinds.is_empty() {
            return Ok(());
        }
        setns_of_process(self.process, self.kinds).step(|| "enter the container's namespaces")
    }
}

/// Puts this process's later children back into its own namespaces when dropped.
pub(crate) struct ForChildren {
    own: Vec<(File, CloneFlags)>,
}

impl Drop for ForChildren {
    fn drop(&mut self) {
        for (own, kind) in &self.own {
            // Going back can't be refused: it needs only the rights that leaving needed.
            let _ = setns(own, *kind);
        }
    }
}
