//! Makes a child that is the first process in a pid namespace of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr;

use crate::call::check;
use crate::child::{self, Child, pidfd};

/// The word that a child continues at.
const GO_ON: u8 = 1;

/// Makes a child that is a copy of this process, the first one in a pid namespace of its own. Returns
/// `None` in the child.
///
/// fork(3), other than clone(2), leaves the child a C library that can make threads; it puts a child
/// into another pid namespace only if this process's own children all go there from now on.
///
/// # Safety
///
/// As with fork(2): unless this process has a single thread, the child may call only what is safe in
/// a signal handler.
pub(crate) unsafe fn fork() -> io::Result<Option<Child>> {
    let own = File::open("/proc/self/ns/pid")?;
    // Whoever may enter its own pid namespace may return to it. In a user namespace nobody may, as
    // it is of the one above.
    match enter(&own) {
        // SAFETY: the caller's promise.
        Ok(()) => unsafe { fork_and_return(&own) },
        // SAFETY: as above.
        Err(_) => unsafe { fork_through_another() },
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: the call takes no pointers. It concerns only children that are made later.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWPID) }.into())
}

/// Makes the child, and has this process's next child in its own namespace again.
///
/// # Safety
///
/// As with [`fork`].
unsafe fn fork_and_return(own: &File) -> io::Result<Option<Child>> {
    // SAFETY: the caller's promise.
    let pid = match unsafe { fork_into_new()? } {
        0 => return Ok(None),
        pid => pid,
    };
    adopted(pid, enter(own)).map(Some)
}

/// Makes the child by way of a process that ends then, so that this one's next child is in its own
/// namespace.
///
/// # Safety
///
/// As with [`fork`].
unsafe fn fork_through_another() -> io::Result<Option<Child>> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    adopt(true)?;
    // SAFETY: the caller's promise.
    let between = unsafe { libc::fork() };
    if between == 0 {
        drop(ours);
        // SAFETY: a copy of a process that keeps the promise.
        let pid = match unsafe { fork_into_new() } {
            Ok(0) => return wait_for_adoption(&mut theirs).map(|()| None),
            Ok(pid) => pid,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        let told = theirs.write_all(&pid.to_ne_bytes());
        child::exit(told.is_err().into());
    }
    let made = check(between.into()).and_then(|()| {
        drop(theirs);
        let mut pid = [0; 4];
        let told = ours.read_exact(&mut pid);
        // SAFETY: the call may be passed null for the status.
        while unsafe { libc::waitpid(between, ptr::null_mut(), 0) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
        told?;
        match i32::from_ne_bytes(pid) {
            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            // If it ends before it hears this, that is noticed later.
            pid => adopted(pid, ours.write_all(&[GO_ON])),
        }
    });
    adopt(false)?;
    made.map(Some)
}

/// In the child: waits until its parent is the process that wanted it. Ends it if there is none.
fn wait_for_adoption(theirs: &mut UnixStream) -> io::Result<()> {
    let mut word = [0];
    match theirs.read_exact(&mut word) {
        Ok(()) => Ok(()),
        Err(_) => child::exit(1),
    }
}

/// Makes a child in a new pid namespace, where all later ones of this process would be, too. Returns
/// 0 in the child.
///
/// # Safety
///
/// As with [`fork`].
unsafe fn fork_into_new() -> io::Result<libc::pid_t> {
    // SAFETY: the calls take no pointers; the rest is the caller's promise.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWPID).into())?;
        let pid = libc::fork();
        check(pid.into()).map(|()| pid)
    }
}

/// Says whether this process becomes the parent of those whose parent ends, if they descend from it.
fn adopt(does: bool) -> io::Result<()> {
    // SAFETY: the call takes numbers.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_CHILD_SUBREAPER,
            libc::c_ulong::from(does),
            0,
            0,
            0,
        )
    };
    check(set.into())
}

/// Returns the child of this process that has this pid, unless what had to follow failed.
fn adopted(pid: libc::pid_t, followed: io::Result<()>) -> io::Result<Child> {
    let child = pidfd(pid as u32).map(|pidfd| Child::new(pidfd, pid as u32));
    match (child, followed) {
        (Ok(child), Ok(())) => Ok(child),
        (Err(error), _) | (_, Err(error)) => {
            // SAFETY: the child hasn't been reaped, so nobody else has its pid.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, ptr::null_mut(), 0);
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Ended;

    /// Returns what a child that was made so says of itself: its pid, and whether its parent is
    /// outside its pid namespace.
    fn ended(make: unsafe fn() -> io::Result<Option<Child>>) -> Ended {
        // SAFETY: the child makes only system calls.
        match unsafe { make() }.unwrap() {
            // SAFETY: the calls take nothing, and always succeed.
            None => child::exit(unsafe { libc::getpid() + 2 * libc::getppid() }),
            Some(child) => child.reap().unwrap(),
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn a_child_is_the_first_of_its_namespace_and_this_processs_own() {
        // SAFETY: geteuid() always succeeds.
        if unsafe { libc::geteuid() } != 0 {
            panic!("skipped: it needs root");
        }
        for make in [fork, fork_through_another] as [unsafe fn() -> _; 2] {
            for _ in 0..2 {
                assert_eq!(ended(make), Ended::Exited(1));
            }
        }
        // SAFETY: the child makes only system calls.
        let later = unsafe { libc::fork() };
        if later == 0 {
            child::exit(0);
        }
        // It is in this process's own namespace.
        let child = pidfd(later as u32).map(|pidfd| Child::new(pidfd, later as u32));
        assert_eq!(child.unwrap().reap().unwrap(), Ended::Exited(0));
    }
}
