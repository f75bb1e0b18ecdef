//! Removes what is left of a container besides its folder: of one in a VM whose sandbox process has
//! ended, or of one on the host's kernel whose creation was cut short.

use std::{
    io,
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use nacre_agent::container::{
    Identity,
    cgroups::{Cgroup, CgroupError, cgroup_path},
};
use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    id::Id,
    state::{
        By, Claim, Folder, StateError, Store,
        record::{Progress, VmRecord},
    },
    systemd,
};

use super::{
    hooks, redirect,
    wait::{Interest, wait},
};

/// How long a killed process may take to end.
const LIMIT: Duration = Duration::from_secs(10);

/// Why what is left of a container can't be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemainsError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("can't remove the cgroup that is left of container {id}")]
    Cgroup {
        id: Id,
        #[source]
        source: Box<CgroupError>,
    },
    #[error(
        "can't remove the cgroup that is left of container {id}: there are processes in {path}"
    )]
    Occupied { id: Id, path: PathBuf },
    #[error("can't end the process that stands for container {id}")]
    StandIn {
        id: Id,
        #[source]
        source: io::Error,
    },
    #[error("can't clean up the container's network namespace")]
    Network(#[source] io::Error),
}

/// Claims an id for a new container, and takes over what one that has ended and isn't kept, or a
/// command that was killed, has left.
pub(crate) fn claim(store: &Store, id: &Id) -> Result<Folder, RemainsError> {
    let folder = match store.claim(id)? {
        Claim::New(folder) => return Ok(folder),
        Claim::Remains(folder) => folder,
    };
    let record = folder.record()?;
    remove(&folder, id)?;
    folder.clear()?;
    if let Some(record) = &record {
        hooks::poststop(record);
    }
    Ok(folder)
}

/// Removes what the container of a folder has left besides the folder.
///
/// # Errors
///
/// If any of it can't be removed.
pub(crate) fn remove(folder: &Folder, id: &Id) -> Result<(), RemainsError> {
    match folder.record()?.map(|record| record.by) {
        // It was removed, or never existed.
        None => Ok(()),
        Some(By::Vm(vm)) => remove_of_vm(&vm, id),
        Some(By::Process(host)) => {
            let removed = match &host.cgroup {
                Some(cgroup) => cgroup.remove_empty().map(drop),
                None => remove_configured_cgroup(folder, id),
            };
            removed.map_err(|source| RemainsError::Cgroup {
                id: id.clone(),
                source: source.into(),
            })
        }
    }
}

/// Removes the cgroup of a container when only its configuration says which one that was.
fn remove_configured_cgroup(folder: &Folder, id: &Id) -> Result<(), CgroupError> {
    // An incomplete configuration was still being written, before there was a cgroup.
    let Ok(spec) = folder.spec() else {
        return Ok(());
    };
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let path = path.filter(|path| !path.as_os_str().is_empty());
    Cgroup::remove_remains(&cgroup_path(path, id.as_str())?)
}

/// Removes what a VM's sandbox process has left: the process that stands for the container, what is
/// in the network, and the cgroup.
fn remove_of_vm(vm: &VmRecord, id: &Id) -> Result<(), RemainsError> {
    if let Some(stand_in) = &vm.stand_in {
        kill(stand_in).map_err(|source| RemainsError::StandIn {
            id: id.clone(),
            source,
        })?;
    }
    if let Some(path) = &vm.network {
        redirect::remove_what_is_left(path).map_err(RemainsError::Network)?;
    }
    let Some(cgroup) = &vm.cgroup else {
        return Ok(());
    };
    let removed = cgroup
        .remove_empty()
        .map_err(|source| RemainsError::Cgroup {
            id: id.clone(),
            source: source.into(),
        })?;
    match (removed, vm.progress) {
        (true, _) => {
            systemd::forget(cgroup.unit());
            Ok(())
        }
        // It may be somebody else's cgroup, which kept the container from being created.
        (false, Progress::Creating) => Ok(()),
        (false, Progress::Created | Progress::Started) => Err(RemainsError::Occupied {
            id: id.clone(),
            path: cgroup.path().to_owned(),
        }),
    }
}

/// Kills the process that stands for the container, and with it everything in its pid namespace. It
/// ends by itself when the sandbox process does, unless somebody has stopped it.
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
        // Readable once it has ended, whether or not its parent has been told.
        let ended = Interest::readable((), process.as_fd());
        if !wait(vec![ended], Some(left))?.is_empty() {
            return Ok(());
        }
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
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
    use crate::isolation::record::new_record;

    #[test]
    fn an_id_is_claimed_together_with_what_is_left_of_it() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path()).unwrap();
        let id = Id::new("a").unwrap();
        let folder = claim(&store, &id).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let vm = VmRecord {
            stand_in: Some(Identity::of(Pid::from_raw(child.id() as i32)).unwrap()),
            keep: false,
            ..VmRecord::example()
        };
        let record = new_record(&id, "/".into(), &Default::default(), By::Vm(vm));
        folder.write(&record).unwrap();
        // As the kernel does when the process is killed.
        drop(folder);
        let folder = claim(&store, &id).unwrap();
        assert!(folder.record().unwrap().is_none());
        assert!(!child.wait().unwrap().success());
        folder.remove().unwrap();
    }

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
