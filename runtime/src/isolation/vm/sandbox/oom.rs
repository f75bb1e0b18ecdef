//! Shows that a guest ran out of memory, where engines look for it.
//!
//! Engines learn of it from the container's cgroup on the host: conmon, containerd's shim and
//! Docker wait there for the kernel to kill a process for lack of memory, and take no runtime's
//! word for it. But the limit that killed a process in a guest is the guest's. So that they hear of
//! it, the container's cgroup meets its limit once its machine has ended: the limit is lowered to a
//! little more than what is still used, and a process that exists for nothing else takes memory
//! until the kernel kills it. By then that can harm nothing but the sandbox process, which is much
//! smaller.
//! much smaller.

use std::{
    io, ptr,
    thread::sleep,
    time::{Duration, Instant},
};

use nacre_agent::container::cgroups::{Cgroup, CgroupError};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};
use oci_spec::runtime::{LinuxMemory, LinuxResources};

use crate::{
    log::chain,
    state::{By, Folder, Record},
};

/// How much room the limit leaves above what is used, in bytes: several times what the sandbox
/// process has.
const ROOM: u64 = 32 << 20;

const PAGE: usize = 4096;

/// How long the kernel has to kill the process. It may be that no process of this cgroup can be
/// killed for lack of memory (`oom_score_adj`).
const PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(1);

/// Why engines don't hear of it.
#[derive(Debug, thiserror::Error)]
enum OomError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("can't start a process that meets the limit")]
    Fork(#[source] io::Error),
    #[error("the kernel didn't kill the process that met the limit")]
    NotKilled,
}

/// Tells everybody that memory ran out in a container's guest, after its machine has ended.
pub(super) fn tell(id: &str, folder: &Folder, cgroup: Option<&Cgroup>) {
    let limit = match folder.record() {
        Ok(Some(Record { by: By::Vm(vm), .. })) => vm.memory_limit,
        _ => None,
    };
    match limit {
        Some(0..) => tracing::warn!("container {id}: its memory limit killed a process of it"),
        _ => tracing::warn!(
            "container {id}: its VM's memory ran out, which killed a process of it (the annotation \
             dev.nacre.vm.memory asks for more)"
        ),
    }
    if let Some(Err(error)) = cgroup.map(show) {
        tracing::warn!(
            "container {id}: nobody is told by its cgroup that memory ran out: {}",
            chain(&error)
        );
    }
}

/// Has the kernel kill a process of this cgroup for lack of memory, after its machine has ended.
/// The cgroup is of no further use.
fn show(cgroup: &Cgroup) -> Result<(), OomError> {
    let limit = cgroup.stats()?.memory.usage.usage.saturating_add(ROOM);
    let mut memory = LinuxMemory::default();
    let bytes = i64::try_from(limit).unwrap_or(i64::MAX);
    memory.set_limit(Some(bytes));
    memory.set_swap(Some(bytes));
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory));
    cgroup.limit_where_possible(&resources)?;
    let before = cgroup.oom_kills()?;
    let most = usize::try_from(limit.saturating_add(ROOM)).unwrap_or(usize::MAX);
    // SAFETY: the child only makes system calls and touches only what it maps.
    match unsafe { fork() }.map_err(|error| OomError::Fork(error.into()))? {
        ForkResult::Child => take(most),
        ForkResult::Parent { child } => await_end(child),
    }
    if cgroup.oom_kills()? > before {
        Ok(())
    } else {
        Err(OomError::NotKilled)
    }
}

/// Takes at most this much memory, and ends.
fn take(most: usize) -> ! {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the memory is new, and each page is written to where it was mapped; the process ends
    // without using anything of its parent's.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let memory = libc::mmap(ptr::null_mut(), most, protection, flags, -1, 0);
        if memory != libc::MAP_FAILED {
            for offset in (0..most).step_by(PAGE) {
                memory.cast::<u8>().add(offset).write_volatile(1);
            }
        }
        libc::_exit(0)
    }
}

/// Waits until the child has ended, and makes sure that it does.
fn await_end(child: Pid) {
    let end = Instant::now() + PATIENCE;
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            _ => return,
        }
        if Instant::now() > end {
            let _ = kill(child, Signal::SIGKILL);
        }
        sleep(INTERVAL);
    }
}
