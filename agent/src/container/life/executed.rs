//! The process outside of a container's pid namespace, which makes the one inside where others are
//! already: it does everything before anybody in there can see it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::container::error::{InitError, Step};
use crate::container::fork::channel::{Channel, Report};
use crate::container::fork::crossing::{Crossing, Side};
use crate::container::kernel::procfs::Proc;
use crate::container::namespaces::entry::OtherNamespaces;
use crate::container::process::program::ProgramFile;
use crate::container::process::stdio::Stdio;
use crate::container::process::user;
use crate::container::process::workload::Workload;
use crate::container::root::rootfs::change_root;

/// What to enter to become a process of the container.
pub(crate) struct ContainerEntry<'a> {
    pub(crate) namespaces: OtherNamespaces<'a>,
    /// Its root, unless that is its mount namespace's.
    pub(crate) root: Option<OwnedFd>,
}

/// The process outside of the container's pid namespace, which does everything before anybody in
/// there can see it.
pub(crate) struct OutsideProcess<'a> {
    pub(crate) container: &'a ContainerEntry<'a>,
    pub(crate) stdio: &'a Stdio,
    pub(crate) preserve_fds: u32,
    pub(crate) session_keyring: Option<&'a str>,
    pub(crate) crossing: &'a Crossing,
}

impl OutsideProcess<'_> {
    /// Does all that it does, and after the crossing, all that the process inside does.
    pub(crate) fn run(
        &self,
        workload: &mut Workload<'_>,
        proc: BorrowedFd<'_>,
        line: Channel,
    ) -> i32 {
        match self.become_inside(workload, proc, &line) {
            Ok((Side::Outside, _)) => 0,
            Ok((Side::Inside, file)) => match workload.begin_inside(&line) {
                Ok(()) => workload.exec(&file, &line),
                Err(error) => line.give_up(&error),
            },
            Err(error) => line.give_up(&error),
        }
    }

    fn become_inside(
        &self,
        workload: &mut Workload<'_>,
        proc: BorrowedFd<'_>,
        line: &Channel,
    ) -> Result<(Side, ProgramFile), InitError> {
        self.enter(workload, proc, line)?;
        let prepared = self.crossing.prepare();
        prepared.step(|| "keep a page from the container")?;
        // SAFETY: nothing that is used from here on owns a descriptor, and the process ends without
        // dropping anything. This is a fork of a process with a single thread, which keeps no
        // environment variables.
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

    /// Does everything that needs the caller's rights or files.
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
            // What it creates, such as its terminal, is to belong to a user of that namespace.
            user::become_root()?;
        }
        if let Some(cpus) = &workload.affinity().last {
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
