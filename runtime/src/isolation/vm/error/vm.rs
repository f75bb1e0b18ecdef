//! Why a container can't be run in a VM, and how it ended.

use std::{fmt, io, path::PathBuf};

use nacre_agent::container::{
    ConsoleSocketError, Identity,
    cgroups::{Cgroup, CgroupError},
    hooks::HookError,
};
use nacre_vmm::{
    devices::virtio::fs::FileServerError,
    violation::{self, Whose},
};
use nix::sys::signal::Signal;

use crate::{
    config::{
        Bytes, hypervisor::HypervisorError, nested::NestedError, rates::RateError,
        rootfs::RootfsError, size::SizeError,
    },
    isolation::{
        console::ConsoleError,
        remains::RemainsError,
        status_error::StatusError,
        told::ToldError,
        vm::{
            guest_spec::{GuestSpecError, SecurityModuleError},
            network::NetworkError,
            own_namespace::OwnNamespaceError,
            stand_in::StandInError,
        },
    },
    log::chain,
    state::{StateError, record},
    systemd::SystemdError,
};

use super::{
    client::ClientError, disk::DiskError, session::SessionError, share::ShareError,
    update::UpdateError,
};

/// Why a container can't be run in a VM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    #[error(transparent)]
    OwnNamespace(#[from] OwnNamespaceError),
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Nested(#[from] NestedError),
    #[error("can't open the {what} {path}: {source}; {remedy}")]
    Component {
        what: &'static str,
        path: PathBuf,
        remedy: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Rate(#[from] RateError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    GuestSpec(#[from] GuestSpecError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Remains(#[from] RemainsError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("exec failed: unable to start container process")]
    Exec(#[source] ClientError),
    #[error("exec failed: unable to start container process")]
    ExecProcess(#[from] SecurityModuleError),
    #[error("{0}: a VM has no way to the caller's files")]
    Descriptors(&'static str),
    #[error("exec failed: --preserve-fds: a VM has no way to the caller's files")]
    ExecDescriptors,
    #[error(
        "ps {0:?} isn't known in a VM, where there is no ps: there are -e, -f and -o with pid, \
         ppid, uid, user, c, stime, etimes, tty, time, times, cmd, args and command"
    )]
    PsArgument(String),
    #[error("couldn't find PID field in ps output")]
    NoPidInPs,
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error(transparent)]
    ConsoleSocket(#[from] ConsoleSocketError),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error(transparent)]
    FileServer(#[from] FileServerError),
    #[error(transparent)]
    StandIn(#[from] StandInError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error("can't make the VM")]
    Make(#[source] nacre_vmm::Error),
    #[error("the VM failed: {}{}", chain(.0), Console(.0.console_tail().unwrap_or_default()))]
    Failed(nacre_vmm::Error),
    #[error("{error}{}", Console(.console))]
    Session {
        error: SessionError,
        /// The last lines of the guest's console, where they may say why.
        console: String,
    },
    #[error("{what}")]
    Host {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Told(#[from] ToldError),
    #[error("the sandbox process was killed by {0}")]
    Killed(Signal),
    #[error("the sandbox process was killed by its system call filter (SIGSYS){call}")]
    Filtered {
        /// Words for which call, if the host's kernel log says so.
        call: String,
    },
    #[error(
        "the host killed {what} for want of memory: the VM's cgroup may have {limit}, which is its \
         guest's memory and what vm.overhead-memory in the configuration file adds, or there was \
         no more for it"
    )]
    HostMemory { what: &'static str, limit: Bytes },
}

impl VmError {
    /// Returns the command's exit status.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Session { error, .. } => match error {
                // 0 would mean that the workload had run and succeeded.
                SessionError::Refused(failure) => failure.status.max(1),
                SessionError::Interrupted(signal) => 128 + *signal as u8,
                SessionError::StandInKilled => 128 + libc::SIGKILL as u8,
                _ => 1,
            },
            Self::Killed(signal) => 128 + *signal as u8,
            Self::Filtered { .. } => 128 + libc::SIGSYS as u8,
            Self::HostMemory { .. } => 128 + libc::SIGKILL as u8,
            Self::Client(ClientError::Refused(failure))
            | Self::Exec(ClientError::Refused(failure)) => failure.status.max(1),
            _ => 1,
        }
    }

    /// Returns the error for a process that was killed in a VM with this cgroup, if lack of memory
    /// was the reason.
    pub(in crate::isolation::vm) fn host_memory(
        what: &'static str,
        cgroup: Option<&Cgroup>,
    ) -> Option<Self> {
        let cgroup = cgroup?;
        let limit = Bytes(cgroup.stats().ok()?.memory.usage.limit);
        (cgroup.oom_kills().ok()? > 0).then_some(Self::HostMemory { what, limit })
    }

    pub(in crate::isolation::vm) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// Returns what went wrong with a container that has ended, unless the workload itself failed.
pub(crate) fn failure(vm: &record::VmRecord) -> Option<String> {
    match &vm.end {
        Some(end) => end.failure.clone(),
        None => {
            let filtered = || {
                let call = filtered_call(&vm.sandbox);
                (!call.is_empty()).then_some(VmError::Filtered { call })
            };
            let error = VmError::host_memory(SANDBOX, vm.cgroup.as_ref()).or_else(filtered);
            Some(chain(&error.unwrap_or(VmError::Killed(Signal::SIGKILL))))
        }
    }
}

/// Returns words for the system call that a sandbox process's filter has killed it for, none if the
/// host's kernel log doesn't have it.
pub(in crate::isolation::vm) fn filtered_call(sandbox: &Identity) -> String {
    let began = violation::beginning(sandbox.start_time);
    violation::words(Whose::Process(sandbox.pid.unsigned_abs()), began)
}

impl From<SessionError> for VmError {
    fn from(error: SessionError) -> Self {
        Self::Session {
            error,
            console: String::new(),
        }
    }
}

/// The last lines of a guest's console at the end of an error, if there are any.
struct Console<'a>(&'a str);

/// What errors call the process.
pub(in crate::isolation::vm) const SANDBOX: &str = "the sandbox process";

/// How many lines of a console an error quotes.
const CONSOLE_LINES: usize = 8;

/// How the line begins that a kernel prints when it panics.
const PANIC: &str = "Kernel panic - not syncing";

impl fmt::Display for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.0.lines().filter(|l| !l.trim().is_empty()).collect();
        if lines.is_empty() {
            return Ok(());
        }
        // A panic's reason comes before a long trace.
        let (says, from) = match lines.iter().rposition(|line| line.contains(PANIC)) {
            Some(panic) => ("the guest's console says", panic),
            None => (
                "the guest's console ends with",
                lines.len().saturating_sub(CONSOLE_LINES),
            ),
        };
        let quoted = &lines[from..lines.len().min(from + CONSOLE_LINES)];
        write!(f, "; {says}: {}", quoted.join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_error_ends_with_the_consoles_last_lines() {
        let console = (0..20).map(|i| format!("line {i}\n\n")).collect::<String>();
        let error = VmError::Session {
            error: SessionError::NoHello(Duration::from_secs(3)),
            console,
        };
        assert_eq!(
            error.to_string(),
            "the guest didn't say hello within 3 s; the guest's console ends with: line 12 | \
             line 13 | line 14 | line 15 | line 16 | line 17 | line 18 | line 19"
        );
    }

    #[test]
    fn an_error_has_the_reason_of_a_panic() {
        let trace = (0..20).map(|i| format!("? {i}\n")).collect::<String>();
        let error = VmError::Session {
            error: SessionError::NoHello(Duration::from_secs(3)),
            console: format!("before\n[ 1.2] Kernel panic - not syncing: no init\n{trace}"),
        };
        let message = error.to_string();
        assert!(
            message.contains(
                "; the guest's console says: [ 1.2] Kernel panic - not syncing: no init | ? 0 | "
            ),
            "{message}"
        );
        assert!(message.ends_with("| ? 6"), "{message}");
    }

    #[test]
    fn a_refusal_never_exits_with_success() {
        let refused = |status| {
            let failure = nacre_agent::protocol::Failure {
                message: String::new(),
                status,
            };
            VmError::from(SessionError::Refused(failure)).exit_status()
        };
        assert_eq!((refused(127), refused(126), refused(0)), (127, 126, 1));
    }
}
