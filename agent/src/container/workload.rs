//! What becomes of a process of the engine's on its way to the workload's exec. A container's
//! init goes this way, and so does a process that is started in it later.

use std::ffi::CString;
use std::io;
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
use super::passage::Passage;
use super::process::Program;
use super::procfs::Proc;
use super::seccomp::Filter;
use super::stdio::{self, Stdio};
use super::terminal::{self, Terminal};
use super::{
    environment, id_map, io_priority, keyring, lsm, memory_policy, personality, rlimits, scheduler,
    signals, sys, user,
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
    passage: Passage,
    program: Program,
}

/// The way from a filter to the exec can't be made.
fn no_passage(error: io::Error) -> ConfigError {
    ConfigError::invalid("linux.seccomp", format!("no random numbers: {error}"))
}

impl<'a> Workload<'a> {
    pub(super) fn new(process: &'a Process, linux: &'a Linux) -> Result<Self, ConfigError> {
        let passage = Passage::new(process.terminal() == Some(true)).map_err(no_passage)?;
        let filter = linux.seccomp().as_ref().map(Filter::compile).transpose()?;
        Ok(Workload {
            process,
            personality: linux.personality().as_ref(),
            memory_policy: linux.memory_policy().as_ref(),
            capabilities: Sets::of(process.capabilities().as_ref()),
            filter: filter.map(|filter| filter.with(|program| passage.through(program))),
            passage,
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

    /// Its limits and labels, in the container's namespaces and root. `proc` is still the
    /// caller's.
    pub(super) fn set_limits_and_labels(&self, proc: &Proc) -> Result<(), InitError> {
        self.set_limits()?;
        if let Some(profile) = says(self.process.apparmor_profile()) {
            lsm::set_apparmor_profile(proc, profile)?;
        }
        if let Some(label) = self.label() {
            lsm::set_selinux_label(proc, label)?;
        }
        Ok(())
    }

    /// Closes all that is open, but the standard streams, the first `preserve_fds` descriptors
    /// behind them and the line to the engine, and forgets the caller's environment. From here on
    /// the image has a say in what is looked for, and could find the host by a descriptor's link
    /// in `/proc` (CVE-2024-21626).
    ///
    /// # Safety
    ///
    /// What owns a descriptor in this process, other than `line`, must be neither used nor
    /// dropped any more. The process must have a single thread, and nobody may have kept a
    /// variable of the environment.
    pub(super) unsafe fn let_go_of_the_host(
        line: &Channel,
        preserve_fds: u32,
    ) -> Result<(), InitError> {
        // SAFETY: the caller's promise.
        let closed = unsafe {
            environment::forget();
            sys::close_all_but(line.as_fd(), 3u32.saturating_add(preserve_fds))
        };
        closed.step(|| "close the engine's descriptors")
    }

    /// The last steps: the user, with its capabilities, its directory and its program. Returns
    /// the file to exec. `outside` of the container's pid namespace `/proc/self` leads nowhere, so
    /// there a path that does is left to the exec to look for.
    pub(super) fn become_the_users(&mut self, outside: bool) -> Result<CString, InitError> {
        self.become_the_user()?;
        Ok(match self.program.find() {
            Err(error) if outside && error.leads_nowhere() => {
                self.program.path().ok_or(error)?.to_owned()
            }
            found => found?,
        })
    }

    /// Whether the profile asks somebody else about system calls.
    pub(super) fn has_listener(&self) -> bool {
        self.filter.as_ref().is_some_and(Filter::notifies)
    }

    /// What is left to do behind the filter is done by way of this.
    pub(super) fn passage(&self) -> &Passage {
        &self.passage
    }

    /// Goes below the filter of system calls, and lets go of the right to do so. If somebody
    /// listens to what the filter has to tell, the engine gets the listener's end. From then on
    /// only the exec has to be among the calls that the profile allows.
    pub(super) fn confine(&self, engine: &Channel) -> Result<(), InitError> {
        let Some(filter) = &self.filter else {
            return Ok(());
        };
        let listener = filter.load()?;
        self.capabilities.let_go_of_more(&self.passage)?;
        if let Some(listener) = listener {
            let passed = engine.report_with_fd(&Report::Filtered, Some(listener.as_fd()));
            self.passage.close(listener);
            passed.step(|| "pass the filter's listener on")?;
        }
        Ok(())
    }

    /// The process inside of a pid namespace that others are in: what only it can do itself.
    pub(super) fn begin_inside(&self, engine: &Channel) -> Result<(), InitError> {
        self.lead_session()?;
        if self.has_scheduler() {
            let heard = self.passage.hear(engine);
            if !heard.step(|| "hear from the engine")?.go {
                return Err(InitError::EngineGone);
            }
        }
        Ok(())
    }

    /// Leads a session, with the terminal if it has one.
    fn lead_session(&self) -> Result<(), InitError> {
        self.passage.start_session().step(|| "start a session")?;
        self.take_terminal()
    }

    /// Makes the terminal, if it has one and it is on its standard streams already, the one that
    /// controls the session that it leads.
    pub(super) fn take_terminal(&self) -> Result<(), InitError> {
        if !self.has_terminal() {
            return Ok(());
        }
        // SAFETY: the standard streams are open, and stay so.
        let stdin = unsafe { BorrowedFd::borrow_raw(0) };
        self.passage
            .take_terminal(stdin)
            .step(|| "take the terminal")
    }

    /// Becomes the program. Returns only if that fails.
    pub(super) fn exec(&self, file: &CString) -> InitError {
        self.program.exec(file).into()
    }

    fn has_no_new_privileges(&self) -> bool {
        self.process.no_new_privileges() == Some(true)
    }

    /// Whether it has `process.scheduler`, which isn't handed on by a process to its copy.
    pub(super) fn has_scheduler(&self) -> bool {
        self.process.scheduler().is_some()
    }

    /// `process.scheduler`, for a process; 0 is this one.
    pub(super) fn set_scheduler(&self, pid: Pid) -> Result<(), InitError> {
        let Some(scheduler) = self.process.scheduler() else {
            return Ok(());
        };
        let policy = scheduler.policy();
        scheduler::set(scheduler, pid).step(|| format!("set process.scheduler to {policy}"))
    }

    fn set_limits(&self) -> Result<(), InitError> {
        if let Some(personality) = self.personality {
            personality::set(personality).step(|| "set linux.personality")?;
        }
        if let Some(policy) = self.memory_policy {
            memory_policy::set(policy).step(|| "set linux.memoryPolicy")?;
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
        let filters = self.filter.is_some() && !self.has_no_new_privileges();
        let until_filtered = if filters {
            CapabilitySet::SYS_ADMIN
        } else {
            CapabilitySet::empty()
        };
        self.capabilities.set(until_filtered)?;
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
