//! The process outside of a container's pid namespace by which one inside is made, where others are
//! already: everything is done in it before anybody in there can see it.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::affinity::Affinity;
use super::channel::{Channel, Report};
use super::crossing::{Crossing, Side};
use super::error::{InitError, Step};
use super::namespaces::Others;
use super::procfs::Proc;
use super::rootfs::change_root;
use super::stdio::Stdio;
use super::user;
use super::workload::Workload;

/// What makes a process one of the container.
pub(super) struct Enterable<'a> {
    pub(super) namespaces: Others<'a>,
    /// Its root, if that isn't its mount namespace's.
    pub(super) root: Option<OwnedFd>,
}

/// The process outside of the container's pid namespace, in which everything is done before
/// anybody in there can see it.
pub(super) struct Outside<'a> {
    pub(super) container: &'a Enterable<'a>,
    pub(super) stdio: &'a Stdio,
    pub(super) preserve_fds: u32,
    pub(super) session_keyring: Option<&'a str>,
    pub(super) affinity: &'a Affinity,
    pub(super) crossing: &'a Crossing,
}

impl Outside<'_> {
    /// All that it does; and behind the crossing, all that the one inside does.
    pub(super) fn run(
        &self,
        workload: &mut Workload<'_>,
        proc: BorrowedFd<'_>,
        line: Channel,
    ) -> i32 {
        match self.become_inside(workload, proc, &line) {
            Ok((Side::Outside, _)) => 0,
            Ok((Side::Inside, file)) => {
                let failed = match workload.begin_inside(&line) {
                    Ok(()) => workload.exec(&file),
                    Err(error) => error,
                };
                line.give_up(&failed)
            }
            Err(error) => line.give_up(&error),
        }
    }

    fn become_inside(
        &self,
        workload: &mut Workload<'_>,
        proc: BorrowedFd<'_>,
        line: &Channel,
    ) -> Result<(Side, CString), InitError> {
        self.enter(workload, proc, line)?;
        let prepared = self.crossing.prepare();
        prepared.step(|| "keep a page from the container")?;
        // SAFETY: nothing that is used from here on owns a descriptor, and the process ends
        // without dropping anything. This is a fork of a process with a single thread, which
        // keeps no variables.
        unsafe { Workload::let_go_of_the_host(line, self.preserve_fds) }?;
        let file = workload.become_the_users(true)?;
        let step = || "tell the engine how it stands";
        line.report(&Report::Crossing).step(step)?;
        workload.confine(line)?;
        // SAFETY: as before.
        let side = unsafe { self.crossing.cross(workload.passage()) };
        let side = side.step(|| "make a process in the container")?;
        Ok((side, file))
    }

    /// Everything that takes the caller's rights or files.
    fn enter(
        &self,
        workload: &Workload<'_>,
        proc: BorrowedFd<'_>,
        line: &Channel,
    ) -> Result<(), InitError> {
        let proc = &Proc::again(proc).step(|| "open /proc again")?;
        workload.use_the_callers_rights(proc, None)?;
        workload.leave_the_engine(self.stdio)?;
        self.container.namespaces.enter()?;
        if self.container.namespaces.have_user() {
            // What it makes, its terminal for one, is to belong to somebody in there.
            user::become_root()?;
        }
        if let Some(cpus) = &self.affinity.last {
            cpus.set().step(|| "set process.execCPUAffinity.final")?;
        }
        if let Some(root) = &self.container.root {
            change_root(root)?;
        }
        if workload.has_terminal() {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let root = open("/", flags, Mode::empty()).step(|| "open the container's root")?;
            if let Some(terminal) = workload.make_terminal(root.as_fd())? {
                let master = terminal.become_streams()?;
                let told = line.report_with_fd(&Report::Terminal, Some(master.as_fd()));
                told.step(|| "pass the terminal on")?;
            }
        }
        if let Some(id) = self.session_keyring {
            workload.join_keyring(id, proc)?;
        }
        workload.set_limits_and_labels(proc)
    }
}
