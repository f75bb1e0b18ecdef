//! What becomes of a process of the engine's on its way to the workload's exec. A container's
//! init goes this way, and so does a process that is started in it later.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, Uid, setsid};
use oci_spec::runtime::{Linux, LinuxMemoryPolicy, LinuxPersonality, Process};
use rustix::thread::CapabilitySet;

use super::capabilities::Sets;
use super::channel::{Channel, Report};
use super::config::ConfigError;
use super::error::{InitError, Step};
use super::process::Program;
use super::procfs::Proc;
use super::seccomp::Filter;
use super::stdio::{self, Stdio};
use super::terminal::{self, Terminal};
use super::{
    id_map, io_priority, keyring, lsm, memory_policy, personality, rlimits, scheduler, signals,
    sys, user,
};

/// The umask of a process that none is asked for, as runc gives it.
pub(super) const UMASK: u32 = 0o022;

/// `process`, understood, and what else makes a process one of the container.
pub(super) struct Workload<'a> {
    process: &'a Process,
    personality: Option<&'a LinuxPersonality>,
    memory_policy: Option<&'a LinuxMemoryPolicy>,
    capabilities: Sets,
    filter: Option<Filter>,
    program: Program,
}

impl<'a> Workload<'a> {
    pub(super) fn new(process: &'a Process, linux: &'a Linux) -> Result<Self, ConfigError> {
        Ok(Workload {
            process,
            personality: linux.personality().as_ref(),
            memory_policy: linux.memory_policy().as_ref(),
            capabilities: Sets::of(process.capabilities().as_ref()),
            filter: linux.seccomp().as_ref().map(Filter::compile).transpose()?,
            program: Program::parse(process)?,
        })
    }

    /// `process.cwd`.
    pub(super) fn cwd(&self) -> &Path {
        self.program.cwd()
    }

    /// `process.terminal`.
    pub(super) fn has_terminal(&self) -> bool {
        self.process.terminal() == Some(true)
    }

    /// Its terminal, if it is to have one, of the devpts in `root`.
    pub(super) fn make_terminal(
        &self,
        root: BorrowedFd<'_>,
    ) -> Result<Option<Terminal>, InitError> {
        match self.has_terminal() {
            true => Terminal::make(root, terminal::size(self.process)).map(Some),
            false => Ok(None),
        }
    }

    /// Puts this process into the session keyring of the container of that name.
    pub(super) fn join_keyring(&self, id: &str, proc: &Proc) -> Result<(), InitError> {
        let Some(label) = self.label() else {
            return keyring::join(id);
        };
        lsm::set_key_label(proc, label)?;
        keyring::join(id)?;
        lsm::set_key_label(proc, "")
    }

    /// `process.selinuxLabel`.
    fn label(&self) -> Option<&str> {
        says(self.process.selinux_label())
    }

    /// The first steps, in the caller's namespaces: a session, signals and, without a terminal,
    /// streams of its own.
    pub(super) fn leave_the_engine(&self, stdio: &Stdio) -> Result<(), InitError> {
        signals::reset().step(|| "reset signals")?;
        if !self.has_terminal() {
            stdio.install().step(|| "set the standard streams up")?;
        }
        setsid().step(|| "start a session")?;
        // Until the exec this is a process of the engine's program, and what it holds is none
        // of the business of whom it meets in namespaces that it joins.
        set_dumpable(false).step(|| "become undumpable")
    }

    /// `process.oomScoreAdj`, for this process or another.
    pub(super) fn adjust_oom_score(&self, proc: &Proc, pid: Option<Pid>) -> Result<(), InitError> {
        let Some(adjustment) = self.process.oom_score_adj() else {
            return Ok(());
        };
        let value = adjustment.to_string();
        match pid {
            None => proc.write("self/oom_score_adj", &value),
            Some(pid) => proc.write(&format!("{pid}/oom_score_adj"), &value),
        }
    }

    /// What takes the caller's rights, and those of a user namespace aren't enough for: done
    /// for this process before it enters one, or for another.
    pub(super) fn use_the_callers_rights(
        &self,
        proc: &Proc,
        pid: Option<Pid>,
    ) -> Result<(), InitError> {
        self.adjust_oom_score(proc, pid)?;
        let rlimits = self.process.rlimits().as_deref().unwrap_or_default();
        rlimits::raise(pid.map_or(0, Pid::as_raw), rlimits)
    }

    /// Gives `stdio` to the user, who is another outside of the container's user namespace.
    pub(super) fn give_streams(&self, stdio: &Stdio, linux: &Linux) {
        if !self.has_terminal()
            && let Some(uid) = id_map::host_uid(linux, self.process.user().uid())
        {
            stdio.give_to(Uid::from_raw(uid));
        }
    }

    /// The last steps, in the container's namespaces and root: its limits, user, capabilities
    /// and directory. Of the descriptors from 3 on, the first `preserve_fds` outlive the exec.
    /// `proc` is still the caller's. Returns the file to exec.
    pub(super) fn get_ready(
        &mut self,
        preserve_fds: u32,
        proc: &Proc,
    ) -> Result<CString, InitError> {
        self.set_limits()?;
        if let Some(profile) = says(self.process.apparmor_profile()) {
            lsm::set_apparmor_profile(proc, profile)?;
        }
        if let Some(label) = self.label() {
            lsm::set_selinux_label(proc, label)?;
        }
        self.become_the_user()?;
        let file = self.program.find()?;
        sys::close_on_exec_from(3u32.saturating_add(preserve_fds))
            .step(|| "close the engine's descriptors at exec")?;
        Ok(file)
    }

    /// Whether the profile asks somebody else about system calls.
    pub(super) fn has_listener(&self) -> bool {
        self.filter.as_ref().is_some_and(Filter::notifies)
    }

    /// If somebody listens to what the filter has to tell, it is loaded now, before the start,
    /// and the engine gets the listener's end.
    pub(super) fn filter_for_listener(&mut self, engine: &Channel) -> Result<(), InitError> {
        let Some(filter) = self.filter.take_if(|filter| filter.notifies()) else {
            return Ok(());
        };
        let listener = filter.load()?;
        let listener = listener.as_ref().map(AsFd::as_fd);
        engine
            .report_with_fd(&Report::Filtered, listener)
            .step(|| "pass the filter's listener on")
    }

    /// Becomes the program, below its filter of system calls: from then on only the exec has to
    /// be among those allowed. Returns only if that fails.
    pub(super) fn exec(&self, file: &CString) -> InitError {
        if let Some(filter) = &self.filter
            && let Err(error) = filter.load()
        {
            return error;
        }
        self.program.exec(file).into()
    }

    fn has_no_new_privileges(&self) -> bool {
        self.process.no_new_privileges() == Some(true)
    }

    fn set_limits(&self) -> Result<(), InitError> {
        if let Some(personality) = self.personality {
            personality::set(personality).step(|| "set linux.personality")?;
        }
        if let Some(policy) = self.memory_policy {
            memory_policy::set(policy).step(|| "set linux.memoryPolicy")?;
        }
        if let Some(scheduler) = self.process.scheduler() {
            let policy = scheduler.policy();
            scheduler::set(scheduler).step(|| format!("set process.scheduler to {policy}"))?;
        }
        if let Some(priority) = self.process.io_priority() {
            io_priority::set(priority).step(|| "set process.ioPriority")?;
        }
        rlimits::set(self.process.rlimits().as_deref().unwrap_or_default())
    }

    /// Becomes the user, with the capabilities and in the directory that it is to have.
    fn become_the_user(&mut self) -> Result<(), InitError> {
        let id = self.process.user();
        self.program.set_home(|| user::home(id.uid()));
        stdio::give_to(Uid::from_raw(id.uid()));
        // As root first: it need not be a directory that the user may enter.
        let entered = self.program.enter_cwd()?;
        self.capabilities.limit_bounding()?;
        user::become_user(id)?;
        // Where anything may gain privileges by an exec, only who has this one may filter.
        // The exec takes it away.
        let filters = self.filter.is_some() && !self.has_no_new_privileges();
        let until_exec = if filters {
            CapabilitySet::SYS_ADMIN
        } else {
            CapabilitySet::empty()
        };
        self.capabilities.set(until_exec)?;
        if !entered && !self.program.enter_cwd()? {
            let cwd = self.cwd().display();
            return Err(Errno::EACCES).step(|| format!("change to process.cwd {cwd}"));
        }
        if self.has_no_new_privileges() {
            set_no_new_privs().step(|| "set noNewPrivileges")?;
        }
        umask(Mode::from_bits_truncate(id.umask().unwrap_or(UMASK)));
        Ok(())
    }
}

fn says(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}
