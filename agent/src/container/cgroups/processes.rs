//! Enters a container's cgroup, and lists and kills the processes in it.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::directory::each_below;
use super::setting::{keyed, write};
use super::{Cgroup, CgroupError, path};
use crate::container::fork::placement::Placement;

impl Cgroup {
    /// Opens it, in all of its hierarchies, to put processes into it.
    ///
    /// # Errors
    ///
    /// The errors of opening it.
    pub fn placement(&self) -> io::Result<Placement> {
        let here = |_: &[String]| Path::new("");
        self.placement_in(here)
    }

    /// As [`Cgroup::placement`], for existing cgroups below it (`runc exec --cgroup`): each with
    /// the controller of version 1 whose hierarchy it is in, or an empty name for all. `/` is this
    /// one.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Path`] for a path that leads elsewhere or a controller that no hierarchy of
    /// version 1 has, [`CgroupError::Directory`] if no cgroup has that path.
    pub fn placement_below(&self, below: &[(&str, &Path)]) -> Result<Placement, CgroupError> {
        let mut checked = Vec::with_capacity(below.len());
        for (controller, path) in below {
            if !controller.is_empty() && self.v1_with(controller).is_none() {
                return Err(CgroupError::Path {
                    path: path.to_path_buf(),
                    reason: "it is for a controller that this host has no hierarchy of version 1 for",
                });
            }
            checked.push((*controller, path::below(path, path)?));
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

    /// Opens, in each hierarchy, the path that `below` gives for its controllers (cgroup2 has
    /// none).
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

    /// Returns the processes in it and below, as pids of this process's pid namespace. Leaves out
    /// those that the namespace can't see.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`] if they can't be read. A cgroup that is gone has none.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        // A process is in all of the hierarchies.
        let Some(first) = self.directories().next() else {
            return Ok(Vec::new());
        };
        processes(&first.path)
    }

    /// Whether any process is in it, in any of the hierarchies, or below.
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

    /// Sends a signal to every process in it and below, including those that are just being forked:
    /// it freezes them meanwhile, where there is a freezer. Processes that have ended since are
    /// fine.
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
            // Without a freezer, processes may be forked meanwhile, which can't be prevented.
            None | Some(Ok(()) | Err(CgroupError::NoFreezer)) => {}
            Some(Err(error)) => return Err(error),
        }
        let sent = self.signal_each(signal);
        match freeze.then(|| self.thaw()) {
            None | Some(Ok(()) | Err(CgroupError::NoFreezer)) => sent,
            Some(Err(error)) => sent.and(Err(error)),
        }
    }

    /// Kills every process in it and below, including those that are just being forked. They may
    /// take a moment to be gone.
    ///
    /// # Errors
    ///
    /// The errors of writing `cgroup.kill` or, where there is none (on version 1, and before Linux
    /// 5.14), of freezing and killing one by one.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Some(v2) = &self.v2 {
            let file = v2.path.join("cgroup.kill");
            match write(&file, "1") {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Ok(()) if self.v1.is_empty() => return Ok(()),
                // Processes that have moved elsewhere in cgroup2 are still in the others.
                Ok(()) => return self.signal_each(libc::SIGKILL),
                other => return other.map_err(CgroupError::directory("write", &file)),
            }
        }
        self.kill_one_by_one()
    }

    /// Kills every process that is listed, which is all of them: frozen processes can't fork. v1's
    /// must be thawed to die.
    pub(super) fn kill_one_by_one(&self) -> Result<(), CgroupError> {
        let frozen = self.freeze();
        let killed = self.signal_each(libc::SIGKILL);
        match frozen {
            // The caller checks whether any are left.
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
                    // SAFETY: the call takes no pointers. It is fine if the process is gone.
                    unsafe { libc::kill(pid, signal) };
                    sent.push(pid);
                }
            }
        }
        Ok(())
    }
}

/// Returns the processes of a directory and below. 0 stands for one that this pid namespace can't
/// see.
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
