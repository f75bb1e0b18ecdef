//! What a process of the engine does on its way to the workload's exec: a container's init, or a
//! process that is started in the container later.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, Uid, setsid};
use oci_spec::runtime::{Linux, LinuxPersonality};
use rustix::thread::CapabilitySet;

use super::program::ProgramFile;
use super::stdio::{self, Stdio};
use super::terminal::Terminal;
use super::{
    io_priority, keyring, lsm, memory_policy, personality, rlimits, scheduler, signals, user,
};
use crate::container::config::affinity::Affinity;
use crate::container::config::memory_policy::MemoryPolicy;
use crate::container::config::seccomp::{Filter, Profile};
use crate::container::config::{ConfigError, ProcessConfig, id_map};
use crate::container::error::{InitError, Step, StepError};
use crate::container::fork::channel::{Channel, Report};
use crate::container::fork::passage::Passage;
use crate::container::kernel::procfs::Proc;
use crate::container::kernel::{environment, sys};

/// The umask of a process whose configuration has none, as with runc.
pub(crate) const UMASK: u32 = 0o022;

/// A checked `process`, and what else makes a process one of the container.
pub(crate) struct Workload<'a> {
    config: ProcessConfig<'a>,
    personality: Option<&'a LinuxPersonality>,
    memory_policy: Option<MemoryPolicy>,
    filter: Option<Filter>,
    passage: Passage,
}

/// The error if the way from a filter to the exec can't be made.
fn no_passage(error: io::Error) -> ConfigError {
    ConfigError::invalid("linux.seccomp", format!("no random numbers: {error}"))
}

impl<'a> Workload<'a> {
    pub(crate) fn new(
        config: ProcessConfig<'a>,
        linux: &'a Linux,
        memory_policy: Option<MemoryPolicy>,
        seccomp: Option<&Profile<'_>>,
    ) -> Result<Self, ConfigError> {
        let has_terminal = config.process.terminal() == Some(true);
        let passage = Passage::new(has_terminal).map_err(no_passage)?;
        let filter = seccomp.map(Profile::compile).transpose()?;
        Ok(Workload {
            config,
            personality: linux.personality().as_ref(),
            memory_policy,
            filter: filter.map(|filter| filter.with_way_for(&passage)),
            passage,
        })
    }

    /// Returns `process.cwd`.
    pub(crate) fn cwd(&self) -> &Path {
        self.config.program.cwd()
    }

    /// Returns `process.execCPUAffinity`.
    pub(crate) fn affinity(&self) -> &Affinity {
        &self.config.affinity
    }

    /// Whether `process.terminal` is set.
    pub(crate) fn has_terminal(&self) -> bool {
        self.config.process.terminal() == Some(true)
    }

    /// Makes its terminal, if it is to have one, of the devpts in `root`.
    pub(crate) fn make_terminal(
        &self,
        root: BorrowedFd<'_>,
    ) -> Result<Option<Terminal>, InitError> {
        if self.has_terminal() {
            Terminal::make(root, self.config.console_size).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Puts this process into the session keyring of the container `id`.
    pub(crate) fn join_keyring(&self, id: &str, proc: &Proc) -> Result<(), InitError> {
        let Some(label) = self.label() else {
            return Ok(keyring::join(id)?);
        };
        lsm::set_key_label(proc, label)?;
        keyring::join(id)?;
        lsm::set_key_label(proc, "")
    }

    /// Returns `process.selinuxLabel`.
    fn label(&self) -> Option<&str> {
        says(self.config.process.selinux_label())
    }

    /// Takes the first steps, in the caller's namespaces: signals and, without a terminal, streams
    /// and a session of its own.
    pub(crate) fn leave_the_engine(&self, stdio: &Stdio) -> Result<(), StepError> {
        signals::reset().step(|| "reset signals")?;
        if !self.has_terminal() {
            stdio.install().step(|| "set the standard streams up")?;
        }
        setsid().step(|| "start a session")?;
        // Until the exec this process runs the engine's program, and others in the namespaces that
        // it joins must not see what it holds.
        set_dumpable(false).step(|| "become undumpable")
    }

    /// ProcessCapabilities `process.oomScoreAdj`, for this process or another.
    pub(crate) fn adjust_oom_score(&self, proc: &Proc, pid: Option<Pid>) -> Result<(), InitError> {
        let Some(adjustment) = self.config.process.oom_score_adj() else {
            return Ok(());
        };
        let value = adjustment.to_string();
        match pid {
            None => proc.write("self/oom_score_adj", &value)?,
            Some(pid) => proc.write(&format!("{pid}/oom_score_adj"), &value)?,
        }
        Ok(())
    }

    /// Does what takes the caller's rights, where those of a user namespace aren't enough: for this
    /// process before it enters one, or for another.
    pub(crate) fn use_the_callers_rights(
        &self,
        proc: &Proc,
        pid: Option<Pid>,
    ) -> Result<(), InitError> {
        self.adjust_oom_score(proc, pid)?;
        let rlimits = self.config.process.rlimits().as_deref().unwrap_or_default();
        rlimits::raise(pid.map_or(0, Pid::as_raw), rlimits)
    }

    /// Makes the user the owner of `stdio`. The user has another id outside of the container's user
    /// namespace.
    pub(crate) fn give_streams(&self, stdio: &Stdio, linux: &Linux) {
        if !self.has_terminal()
            && let Some(uid) = id_map::host_uid(linux, self.config.process.user().uid())
        {
            stdio.give_to(Uid::from_raw(uid));
        }
    }

    /// ProcessCapabilities its limits and labels, in the container's namespaces and root. `proc` is still the
    /// caller's.
    pub(crate) fn set_limits_and_labels(&self, proc: &Proc) -> Result<(), InitError> {
        self.set_limits()?;
        if let Some(profile) = says(self.config.process.apparmor_profile()) {
            lsm::set_apparmor_profile(proc, profile)?;
        }
        if let Some(label) = self.label() {
            lsm::set_selinux_label(proc, label)?;
        }
        Ok(())
    }

    /// Closes everything but the standard streams, the first `preserve_fds` descriptors after them
    /// and the channel to the engine, and forgets the caller's environment. From here on the image
    /// influences which files are opened, and could find the host by a descriptor's link in `/proc`
    /// (CVE-2024-21626).
    ///
    /// # Safety
    ///
    /// What owns a descriptor in this process, other than `line`, must be neither used nor dropped
    /// any more. The process must have a single thread, and no code may have kept a variable of the
    /// environment.
    pub(crate) unsafe fn let_go_of_the_host(
        line: &Channel,
        preserve_fds: u32,
    ) -> Result<(), StepError> {
        // SAFETY: the caller's promise.
        let closed = unsafe {
            environment::forget();
            sys::close_all_but(line.as_fd(), 3u32.saturating_add(preserve_fds))
        };
        closed.step(|| "close the engine's descriptors")
    }

    /// Takes the last steps: to the user, with its capabilities, directory and program. Returns the
    /// file to exec. `outside` of the container's pid namespace `/proc/self` leads nowhere, so a
    /// path that leads nowhere there is left to the exec.
    pub(crate) fn become_the_users(&mut self, outside: bool) -> Result<ProgramFile, InitError> {
        self.become_the_user()?;
        let (path, seen) = match self.config.program.find() {
            Err(error) if outside && error.leads_nowhere() => {
                (self.config.program.path().ok_or(error)?.to_owned(), false)
            }
            found => (found?, true),
        };
        Ok(ProgramFile { path, seen })
    }

    /// Whether the profile notifies a listener of system calls.
    pub(crate) fn has_listener(&self) -> bool {
        self.filter.as_ref().is_some_and(Filter::notifies)
    }

    /// Returns the way to do what is left to do under the filter.
    pub(crate) fn passage(&self) -> &Passage {
        &self.passage
    }

    /// Loads the seccomp filter, and drops the right to do so. If the filter has a listener, the
    /// engine gets the listener's descriptor. From then on the profile has to allow only the exec.
    pub(crate) fn confine(&self, engine: &Channel) -> Result<(), InitError> {
        let Some(filter) = &self.filter else {
            return Ok(());
        };
        let listener = filter.load()?;
        self.config.capabilities.let_go_of_more(&self.passage)?;
        if let Some(listener) = listener {
            let passed = engine.report_with_fd(&Report::Filtered, Some(listener.as_fd()));
            self.passage.close(listener);
            passed.step(|| "pass the filter's listener on")?;
        }
        Ok(())
    }

    /// The process inside of a pid namespace that has others in it: does what only it can do.
    pub(crate) fn begin_inside(&self, engine: &Channel) -> Result<(), InitError> {
        self.lead_session()?;
        if self.has_scheduler() {
            let heard = self.passage.hear(engine);
            if !heard.step(|| "hear from the engine")?.go {
                return Err(InitError::EngineGone);
            }
        }
        Ok(())
    }

    /// Starts a session, with the terminal if it has one.
    fn lead_session(&self) -> Result<(), InitError> {
        self.passage.start_session().step(|| "start a session")?;
        self.take_terminal()
    }

    /// If it has a terminal, which must be on its standard streams already, makes that the
    /// controlling one of its session.
    pub(crate) fn take_terminal(&self) -> Result<(), InitError> {
        if !self.has_terminal() {
            return Ok(());
        }
        // SAFETY: the standard streams are open, and stay so.
        let stdin = unsafe { BorrowedFd::borrow_raw(0) };
        self.passage
            .take_terminal(stdin)
            .step(|| "take the terminal")?;
        Ok(())
    }

    /// Becomes the program. Returns only if that fails, with the exit status. Nobody can predict
    /// whether the kernel takes a file, so if it was there, the process counts as started, and
    /// reports the failure itself.
    pub(crate) fn exec(&self, file: &ProgramFile, engine: &Channel) -> i32 {
        let error = self.config.program.exec(&file.path);
        if !file.seen {
            return engine.give_up(&error.into());
        }
        error.say();
        error.exit_status().into()
    }

    fn has_no_new_privileges(&self) -> bool {
        self.config.process.no_new_privileges() == Some(true)
    }

    /// Whether it has `process.scheduler`, which a process doesn't pass on to its copy.
    pub(crate) fn has_scheduler(&self) -> bool {
        self.config.scheduler.is_some()
    }

    /// ProcessCapabilities `process.scheduler` for a process; 0 is this one.
    pub(crate) fn set_scheduler(&self, pid: Pid) -> Result<(), InitError> {
        let (Some(attributes), Some(scheduler)) =
            (&self.config.scheduler, self.config.process.scheduler())
        else {
            return Ok(());
        };
        let policy = scheduler.policy();
        scheduler::set(attributes, pid).step(|| format!("set process.scheduler to {policy}"))?;
        Ok(())
    }

    fn set_limits(&self) -> Result<(), InitError> {
        if let Some(personality) = self.personality {
            personality::set(personality).step(|| "set linux.personality")?;
        }
        if let Some(policy) = &self.memory_policy {
            memory_policy::set(policy).step(|| "set linux.memoryPolicy")?;
        }
        if let Some(priority) = self.config.io_priority {
            io_priority::set(priority).step(|| "set process.ioPriority")?;
        }
        rlimits::set(self.config.process.rlimits().as_deref().unwrap_or_default())
    }

    /// Becomes the user, with its capabilities and in its directory.
    fn become_the_user(&mut self) -> Result<(), InitError> {
        let id = self.config.process.user();
        self.config.program.set_home(|| user::home(id.uid()));
        stdio::give_to(Uid::from_raw(id.uid()));
        // As root first: the user need not be allowed to enter it.
        let entered = self.config.program.enter_cwd()?;
        self.config.capabilities.limit_bounding()?;
        user::become_user(id)?;
        // Unless no_new_privs is set, loading a filter takes this capability.
        let filters = self.filter.is_some() && !self.has_no_new_privileges();
        let until_filtered = if filters {
            CapabilitySet::SYS_ADMIN
        } else {
            CapabilitySet::empty()
        };
        self.config.capabilities.set(until_filtered)?;
        if !entered && !self.config.program.enter_cwd()? {
            let cwd = self.cwd().display();
            let step = format!("change to process.cwd {cwd}");
            return Err(StepError::new(step, Errno::EACCES).into());
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
