//! What is left of a container in a VM whose sandbox process has ended, besides its folder.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nacre_agent::container::Identity;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::process::{Signal, pidfd_send_signal};

use crate::{id::Id, isolation::vm::network, systemd};

use super::{
    StateError,
    record::{Progress, Vm},
};

/// How long a process that is killed may take to end.
const LIMIT: Duration = Duration::from_secs(10);

/// Removes what a VM's sandbox process has left: the process that stands for the container, what
/// is in the network, and the cgroup.
///
/// # Errors
///
/// What keeps any of it from being removed.
pub(super) fn remove(vm: &Vm, id: &Id) -> Result<(), StateError> {
    if let Some(stand_in) = &vm.stand_in {
        kill(stand_in).map_err(|source| StateError::StandIn {
            id: id.clone(),
            source,
        })?;
    }
    if let Some(path) = &vm.network {
        network::remove_what_is_left(path)?;
    }
    let Some(cgroup) = &vm.cgroup else {
        return Ok(());
    };
    let removed = cgroup
        .remove_empty()
        .map_err(|source| StateError::Remains {
            id: id.clone(),
            source: source.into(),
        })?;
    match (removed, vm.progress) {
        (true, _) => {
            systemd::forget(cgroup.unit());
            Ok(())
        }
        // It may be what kept the container from being made: somebody else's.
        (false, Progress::Creating) => Ok(()),
        (false, Progress::Created | Progress::Started) => Err(StateError::Occupied {
            id: id.clone(),
            path: cgroup.path().to_owned(),
        }),
    }
}

/// Ends the process that stands for the container, and with it all that are in its pid namespace.
/// It ends by itself as the sandbox process does, unless somebody has stopped it.
fn kill(stand_in: &Identity) -> io::Result<()> {
    let Some(process) = stand_in.open()? else {
        return Ok(());
    };
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let end = Instant::now() + LIMIT;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // Readable once it has ended, whether its parent has been told or not.
        match poll(
            &mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(Errno::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::{
        sys::signal::{self, Signal},
        unistd::Pid,
    };

    use super::*;

    #[test]
    fn a_stopped_process_is_ended() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let identity = Identity::of(pid).unwrap();
        signal::kill(pid, Signal::SIGSTOP).unwrap();
        kill(&identity).unwrap();
        assert!(!identity.is_alive());
        child.wait().unwrap();
        kill(&identity).unwrap();
    }

    #[test]
    fn another_process_of_that_pid_is_left_alone() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = Identity::of(Pid::from_raw(child.id() as i32)).unwrap();
        let earlier = Identity {
            start_time: identity.start_time - 1,
            ..identity
        };
        kill(&earlier).unwrap();
        assert!(identity.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
