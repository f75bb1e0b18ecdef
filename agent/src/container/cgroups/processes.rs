//! The processes of a container, by its cgroup: entering it, listing and killing them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::directory::each_below;
use super::setting::{keyed, write};
use super::{Cgroup, CgroupError, path};

/// A cgroup, open for a process to be put in it.
#[derive(Debug)]
pub struct Placement {
    v2: Option<OwnedFd>,
    /// The `tasks` of each v1 hierarchy.
    v1: Vec<File>,
}

impl Placement {
    /// The directory for `clone3` with `CLONE_INTO_CGROUP`, if there is a cgroup2.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(AsFd::as_fd)
    }

    /// Puts the calling process, which must have a single thread, into what a clone can't put
    /// it in: the cgroups of version 1. Call it in the new process, before anything else.
    ///
    /// A thread that moves itself is spared the lock that moving another process takes, which
    /// waits for all CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel says: `EINVAL` for a process of a realtime policy where the cgroup has no
    /// share of that, `ENOMEM`.
    pub fn enter(&self) -> io::Result<()> {
        self.v1
            .iter()
            .try_for_each(|mut tasks| tasks.write_all(b"0"))
    }
}

impl Cgroup {
    /// Opens it for processes to be put in it: in all of its hierarchies.
    ///
    /// # Errors
    ///
    /// What opening it gives.
    pub fn placement(&self) -> io::Result<Placement> {
        let here = |_: &[String]| Path::new("");
        self.placement_in(here)
    }

    /// As [`Cgroup::placement`], for cgroups below it that exist (`runc exec --cgroup`): each
    /// with the controller of version 1 in whose hierarchy it is, or an empty name for all.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Path`] for a path that leads elsewhere or a controller that no hierarchy
    /// of version 1 has, [`CgroupError::Directory`] if there is none of that path.
    pub fn placement_below(&self, below: &[(&str, &Path)]) -> Result<Placement, CgroupError> {
        let mut checked = Vec::with_capacity(below.len());
        for (controller, path) in below {
            if !controller.is_empty() && self.v1_with(controller).is_none() {
                return Err(CgroupError::Path {
                    path: path.to_path_buf(),
                    reason: "it is for a controller that this host has no hierarchy of version 1 for",
                });
            }
            checked.push((*controller, path::checked(path, path)?));
        }
        let find = |wanted: &str| checked.iter().find(|(controller, _)| *controller == wanted);
        let below = |controllers: &[String]| {
            let own = controllers.iter().find_map(|controller| find(controller));
            own.or_else(|| find(""))
                .map_or(Path::new(""), |(_, path)| path.as_path())
        };
        let first = checked.first().map_or(Path::new(""), |(_, path)| path);
        self.placement_in(below)
            .map_err(CgroupError::directory("enter", &self.path().join(first)))
    }

    /// In each hierarchy, `below` says by the controllers where (none are cgroup2's).
    fn placement_in<'a>(&self, below: impl Fn(&[String]) -> &'a Path) -> io::Result<Placement> {
        let mut placement = Placement {
            v2: None,
            v1: Vec::with_capacity(self.v1.len()),
        };
        if let Some(v2) = &self.v2 {
            let directory = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
                .open(v2.path.join(below(&[])))?;
            placement.v2 = Some(directory.into());
        }
        for v1 in &self.v1 {
            let below = below(&v1.controllers);
            let tasks = v1.directory.path.join(below).join("tasks");
            placement
                .v1
                .push(OpenOptions::new().write(true).open(tasks)?);
        }
        Ok(placement)
    }

    /// The processes in it and below, as pids of this process's pid namespace. Those that it
    /// can't see are left out.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`] if they can't be read. None are in a cgroup that is gone.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        // A process is in all of the hierarchies.
        let Some(first) = self.directories().next() else {
            return Ok(Vec::new());
        };
        processes(&first.path)
    }

    /// Whether any process is in it, in one of the hierarchies, or below.
    pub(super) fn is_populated(&self) -> Result<bool, CgroupError> {
        if let Some(v2) = &self.v2
            && self.v1.is_empty()
        {
            let events = fs::read_to_string(v2.path.join("cgroup.events")).unwrap_or_default();
            return Ok(keyed(&events, "populated") == Some(1));
        }
        for directory in self.directories() {
            if !processes(&directory.path)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends a signal to every process in it and below, including those that are just being
    /// forked: they are frozen meanwhile, where there is a freezer. Those that have ended since
    /// are fine.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`] if they can't be listed, [`CgroupError::NotFrozen`].
    pub fn signal_all(&self, signal: i32) -> Result<(), CgroupError> {
        if signal == libc::SIGKILL {
            return self.kill();
        }
        let freeze = !self.is_frozen()?;
        match freeze.then(|| self.freeze()) {
            // Some may be forked meanwhile, which can't be helped then.
            None | Some(Ok(()) | Err(CgroupError::NoFreezer)) => {}
            Some(Err(error)) => return Err(error),
        }
        let sent = self.signal_each(signal);
        match freeze.then(|| self.thaw()) {
            None | Some(Ok(()) | Err(CgroupError::NoFreezer)) => sent,
            Some(Err(error)) => sent.and(Err(error)),
        }
    }

    /// Kills every process in it and below, including those that are just being forked. They
    /// may take a moment to be gone.
    ///
    /// # Errors
    ///
    /// What writing `cgroup.kill` gives, or where there is none (on version 1, and before Linux
    /// 5.14), freezing and killing one by one.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Some(v2) = &self.v2 {
            let file = v2.path.join("cgroup.kill");
            match write(&file, "1") {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Ok(()) if self.v1.is_empty() => return Ok(()),
                // Those that have left it for elsewhere in cgroup2 are still in the others.
                Ok(()) => return self.signal_each(libc::SIGKILL),
                other => return other.map_err(CgroupError::directory("write", &file)),
            }
        }
        self.kill_one_by_one()
    }

    /// Frozen processes can't fork, so killing what is listed kills all. v1's must be thawed to
    /// die.
    pub(super) fn kill_one_by_one(&self) -> Result<(), CgroupError> {
        let frozen = self.freeze();
        let killed = self.signal_each(libc::SIGKILL);
        match frozen {
            // The caller looks whether any is left.
            Err(CgroupError::NoFreezer | CgroupError::NotFrozen { .. }) => killed,
            Err(CgroupError::Directory { source, .. }) if source.kind() == ErrorKind::NotFound => {
                killed
            }
            Err(error) => Err(error),
            Ok(()) => killed.and(self.thaw()),
        }
    }

    fn signal_each(&self, signal: i32) -> Result<(), CgroupError> {
        let mut sent = Vec::new();
        for directory in self.directories() {
            for pid in processes(&directory.path)? {
                if !sent.contains(&pid) {
                    // SAFETY: the call takes no pointers. That the process is gone is fine.
                    unsafe { libc::kill(pid, signal) };
                    sent.push(pid);
                }
            }
        }
        Ok(())
    }
}

/// The processes of a directory and below. 0 stands for one that this pid namespace can't see.
fn processes(directory: &Path) -> Result<Vec<i32>, CgroupError> {
    let mut found = Vec::new();
    let listed = each_below(directory, &mut |directory| {
        let file = directory.join("cgroup.procs");
        let pids = match fs::read_to_string(&file) {
            // Threads of a threaded cgroup are listed with their process, above.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
            // Removed meanwhile.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                return Ok(());
            }
            other => other.map_err(CgroupError::directory("read", &file))?,
        };
        found.extend(pids.lines().filter_map(|line| line.parse::<i32>().ok()));
        Ok(())
    });
    match listed {
        Err(CgroupError::Directory { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    found.retain(|pid| *pid > 0);
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
