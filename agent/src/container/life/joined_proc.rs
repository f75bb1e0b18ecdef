//! Opens a proc file system of a pid namespace that others are in already.
//!
//! Since Linux 6.18 an option names the namespace. Before, it is the opener's: the opener must be
//! in there, and may open nothing without rights over a mount namespace. So it is opened by a
//! process that does nothing else, and has no right that anybody in there could make use of: in its
//! own namespaces, with an empty root, under a filter that allows only this. It sends what it
//! opened here, where it is mounted. But whoever may trace that process chooses what it opens; so
//! that is checked before it is used, and again when it is mounted.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_dumpable;
use oci_spec::runtime::LinuxSeccomp;
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, MountAttrFlags, fsconfig_set_fd, fsconfig_set_string, fsopen};
use serde_json::json;

use crate::container::config::ConfigError;
use crate::container::config::propagation::Propagation;
use crate::container::config::seccomp::{Filter, Profile};
use crate::container::error::{InitError, Step, StepError};
use crate::container::fork::channel::{Channel, Report};
use crate::container::fork::child;
use crate::container::fork::crossing::{Crossing, Side};
use crate::container::fork::passage::Passage;
use crate::container::kernel::mount_calls::tmpfs;
use crate::container::kernel::{environment, sys};
use crate::container::namespaces::entry::Namespaces;
use crate::container::process::user;
use crate::container::root::rootfs::Rootfs;

/// How long opening it may take among hostile processes.
const BOUND: Duration = Duration::from_secs(10);

/// The new namespaces of the process that opens it.
const OWN: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

const OPEN: &str = "open a proc file system of the pid namespace that is joined";

/// Opens a proc file system of the joined pid namespace, without configuring it.
///
/// # Safety
///
/// As with [`child::spawn`].
pub(crate) unsafe fn open(namespaces: &Namespaces) -> Result<OwnedFd, InitError> {
    match namespaces.joined_pid().map(open_of) {
        Some(Ok(context)) => return Ok(context),
        // The kernel has no such option, or this process no right to it.
        Some(Err(Errno::INVAL | Errno::PERM)) | None => {}
        Some(Err(error)) => return Err(StepError::new(OPEN, error).into()),
    }
    // SAFETY: the caller's promise.
    let context = unsafe { open_inside(namespaces) }?;
    vet(&context).step(|| OPEN)?;
    Ok(context)
}

/// Opens it from outside.
fn open_of(namespace: &File) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_fd(&context, "pidns", namespace)?;
    Ok(context)
}

/// Refuses anything but an opened proc file system: only that has this option, which is set to the
/// value that it has anyway. (File systems that parse their options later take any, and are found
/// out when they are mounted.)
fn vet(context: &OwnedFd) -> rustix::io::Result<()> {
    fsconfig_set_string(context, "hidepid", "0")
}

/// Has a process in the namespace open it.
///
/// # Safety
///
/// As with [`child::spawn`].
unsafe fn open_inside(namespaces: &Namespaces) -> Result<OwnedFd, InitError> {
    let step = || OPEN;
    let crossing = Crossing::new().step(step)?;
    let opener = |line: Channel| {
        let passage = match Passage::new(false).step(step) {
            Ok(passage) => passage,
            Err(error) => return line.give_up(&error.into()),
        };
        match become_harmless(namespaces, &crossing, &passage, &line) {
            Ok(Side::Outside) => 0,
            Ok(Side::Inside) => match open_and_send(&line) {
                Ok(()) => 0,
                Err(error) => line.give_up(&error),
            },
            Err(error) => line.give_up(&error),
        }
    };
    // SAFETY: the caller's promise.
    let outside = unsafe { child::spawn(0, None, opener) }.step(step)?;
    let line = outside.channel.try_clone().step(step)?;
    let inside = crossing.wait(outside).step(step)?;
    let heard = line.wait_for_report_and_fd(BOUND).step(step);
    if let Some(inside) = inside {
        inside.end();
    }
    match heard? {
        Some((Report::Ready, Some(context))) => Ok(context),
        Some((Report::Failed(failure), _)) => {
            Err(StepError::new(OPEN, io::Error::other(failure)).into())
        }
        _ => Err(StepError::new(OPEN, io::Error::other("it was killed")).into()),
    }
}

/// Drops everything worth having, and crosses.
fn become_harmless(
    namespaces: &Namespaces,
    crossing: &Crossing,
    passage: &Passage,
    line: &Channel,
) -> Result<Side, InitError> {
    if namespaces.enter_pid()? {
        // A process without a mapped id can't make a user namespace.
        user::become_root()?;
    }
    unshare(OWN).step(|| "make a user namespace")?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let empty = tmpfs(flags).step(|| "make an empty root")?;
    let root = Rootfs::attach(Path::new("/"), Propagation::Private, Some(empty))?;
    root.enter(true, false)?;
    // Inside, its memory is still a copy of the engine's.
    set_dumpable(false).step(|| "become undumpable")?;
    let filter = filter().map_err(io::Error::other);
    let filter = filter.step(|| "compile a filter")?;
    let filter = filter.with_way_for(passage);
    crossing
        .prepare()
        .step(|| "keep a page from the container")?;
    // SAFETY: nothing that is used from here on owns a descriptor, and the process ends without
    // dropping anything. It is a fork of a process with a single thread, which keeps no environment
    // variables.
    unsafe {
        environment::forget();
        sys::close_all_but(line.as_fd(), 0)
    }
    .step(|| "close the engine's descriptors")?;
    filter.load()?;
    // SAFETY: as before.
    let side = unsafe { crossing.cross(passage) };
    Ok(side.step(|| "enter the pid namespace")?)
}

fn open_and_send(line: &Channel) -> Result<(), InitError> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC);
    let context = context.step(|| "open a proc file system")?;
    let sent = line.report_with_fd(&Report::Ready, Some(context.as_fd()));
    sent.step(|| "pass it on")?;
    Ok(())
}

/// Allows only what [`open_and_send`] does, and allocating memory for it.
fn filter() -> Result<Filter, ConfigError> {
    let allowed = [
        "fsopen",
        "sendmsg",
        "sendto",
        "brk",
        "mmap",
        "munmap",
        "close",
        "fcntl",
        "exit_group",
    ];
    let profile = json!({
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}],
    });
    let profile: LinuxSeccomp = serde_json::from_value(profile)
        .map_err(|error| ConfigError::invalid("linux.namespaces", error.to_string()))?;
    Profile::parse(&profile)?.compile()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn what_is_no_proc_file_system_is_found_out() {
        if !nix::unistd::geteuid().is_root() {
            panic!("skipped: it needs root, to open file systems");
        }
        let opened = |kind: &str| fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        vet(&opened("proc")).unwrap();
        for kind in ["tmpfs", "sysfs", "cgroup2", "devpts", "mqueue"] {
            assert!(vet(&opened(kind)).is_err(), "{kind}");
        }
    }
}
