//! A proc file system of a pid namespace that others are in already.
//!
//! Since Linux 6.18 one says which. Before, the namespace of who opens it is shown, who must be in
//! there, and may open nothing without rights over a mount namespace. So it is opened, and no more
//! than that, by a process that has no right that anybody in there could make use of: in namespaces
//! of its own, with an empty root, below a filter that lets it do this alone. What it opened is sent
//! here, where it is mounted. But who may trace that process chooses what it opens; so it is looked
//! at before it is used, and again when it is mounted.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_dumpable;
use oci_spec::runtime::LinuxSeccomp;
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, MountAttrFlags, fsconfig_set_fd, fsconfig_set_string, fsopen};
use serde_json::json;

use super::channel::{Channel, Report};
use super::child;
use super::config::ConfigError;
use super::crossing::{Crossing, Side};
use super::error::{InitError, Step};
use super::mounts::tmpfs;
use super::namespaces::Namespaces;
use super::passage::Passage;
use super::rootfs::{Propagation, Rootfs};
use super::seccomp::Filter;
use super::{sys, user};

/// How long it may take, with hostile company.
const BOUND: Duration = Duration::from_secs(10);

/// The namespaces that whoever opens it has for itself.
const OWN: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

const OPEN: &str = "open a proc file system of the pid namespace that is joined";

/// An opened proc file system of the pid namespace that is joined, not yet configured.
///
/// # Safety
///
/// As with [`child::spawn`].
pub(super) unsafe fn open(namespaces: &Namespaces) -> Result<OwnedFd, InitError> {
    match namespaces.joined_pid().map(open_of) {
        Some(Ok(context)) => return Ok(context),
        // The kernel has no such option, or this process not the right.
        Some(Err(Errno::INVAL | Errno::PERM)) | None => {}
        Some(Err(error)) => return Err(error).step(|| OPEN),
    }
    // SAFETY: the caller's promise.
    let context = unsafe { open_inside(namespaces) }?;
    vet(&context).step(|| OPEN)?;
    Ok(context)
}

/// Opens it from here.
fn open_of(namespace: &File) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_fd(&context, "pidns", namespace)?;
    Ok(context)
}

/// Refuses what isn't an opened proc file system: only that has this option, whose value is the
/// one that it has anyway. (Kinds that look at their options later take any, and are found out
/// when they are mounted.)
fn vet(context: &OwnedFd) -> rustix::io::Result<()> {
    fsconfig_set_string(context, "hidepid", "0")
}

/// Has it opened by a process in there.
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
            Err(error) => return line.give_up(&error),
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
        Some((Report::Failed(failure), _)) => Err(std::io::Error::other(failure)).step(step),
        _ => Err(std::io::Error::other("it was killed")).step(step),
    }
}

/// Leaves all that is worth having, and crosses over.
fn become_harmless(
    namespaces: &Namespaces,
    crossing: &Crossing,
    passage: &Passage,
    line: &Channel,
) -> Result<Side, InitError> {
    if namespaces.enter_pid()? {
        // Nobody makes one who isn't anybody.
        user::become_root()?;
    }
    unshare(OWN).step(|| "make a user namespace")?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let empty = tmpfs(flags).step(|| "make an empty root")?;
    let root = Rootfs::attach(Path::new("/"), Propagation::Private, Some(empty))?;
    root.enter(true, false)?;
    // In there its memory, too, is the engine's.
    set_dumpable(false).step(|| "become undumpable")?;
    let filter = filter().map_err(std::io::Error::other);
    let filter = filter.step(|| "compile a filter")?;
    let filter = filter.with(|program| passage.through(program));
    crossing
        .prepare()
        .step(|| "keep a page from the container")?;
    // SAFETY: nothing that is used from here on owns a descriptor, and the process ends without
    // dropping anything. It is a fork of a process with a single thread, which keeps no variables.
    unsafe {
        super::environment::forget();
        sys::close_all_but(line.as_fd(), 0)
    }
    .step(|| "close the engine's descriptors")?;
    filter.load()?;
    // SAFETY: as before.
    unsafe { crossing.cross(passage) }.step(|| "enter the pid namespace")
}

fn open_and_send(line: &Channel) -> Result<(), InitError> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC);
    let context = context.step(|| "open a proc file system")?;
    let sent = line.report_with_fd(&Report::Ready, Some(context.as_fd()));
    sent.step(|| "pass it on")
}

/// Forbids all but what [`open_and_send`] does, and memory for it.
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
    Filter::compile(&profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_proc_file_system_is_found_out() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("needs root to open file systems: not tested");
            return;
        }
        let opened = |kind: &str| fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        vet(&opened("proc")).unwrap();
        for kind in ["tmpfs", "sysfs", "cgroup2", "devpts", "mqueue"] {
            assert!(vet(&opened(kind)).is_err(), "{kind}");
        }
    }
}
