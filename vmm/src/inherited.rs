//! What a child does about what it has from its parent, besides its files and rights: its life, its
//! terminal, its keys, its namespaces and its root. These make only system calls, so that they can
//! come right after a fork.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use crate::call::check;
use crate::wait::poll_for;

/// Has the kernel kill this process (SIGKILL) when the thread that made it ends, and detaches it
/// from that one's terminal, whose signals aren't for it. Returns false if `parent`, a pidfd, has
/// ended already. A change of user undoes it.
pub(crate) fn end_with(parent: &OwnedFd) -> io::Result<bool> {
    let mut polled = poll_for(parent.as_raw_fd(), libc::POLLIN);
    // SAFETY: plain calls; one `pollfd` is passed, as the count says. A process that already leads
    // a session can't start another, which doesn't matter.
    unsafe {
        libc::setsid();
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::poll(&mut polled, 1, 0) {
            0 => Ok(true),
            count if count > 0 => Ok(false),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Replaces the session keyring by a new, empty one. A kernel without keyrings has nothing to
/// replace, and who may not ask for one may ask for no key either.
pub(crate) fn leave_keyring() -> io::Result<()> {
    // SAFETY: the name is null, which the call accepts for a keyring without a name.
    let keyring = unsafe {
        let none = ptr::null::<libc::c_char>();
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, none)
    };
    match io::Error::last_os_error() {
        error
            if keyring < 0 && !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Hides this process from anyone without special rights. A change of user undoes it.
pub(crate) fn hide() -> io::Result<()> {
    // SAFETY: the call takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into())
}

/// Gives this process a name in process lists, of at most 15 bytes.
pub(crate) fn name(name: &CStr) -> io::Result<()> {
    // SAFETY: the call takes a C string.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) }.into())
}

/// Moves this process, which is in a new pid namespace, into others of its own. What is mounted
/// there later is seen nowhere else, nor the other way round.
pub(crate) fn leave_namespaces() -> io::Result<()> {
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let none = ptr::null::<libc::c_char>();
    // SAFETY: the calls take numbers, C strings, and null where they accept it.
    unsafe {
        check(libc::unshare(flags).into())?;
        match check(libc::unshare(libc::CLONE_NEWCGROUP).into()) {
            // The kernel has none of these.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => other?,
        }
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(none, c"/".as_ptr(), none, private, none.cast()).into())
    }
}

/// Makes the directory, on which something is mounted, the root of the mount namespace, and
/// unmounts everything else.
pub(crate) fn change_root(directory: &CStr) -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: the calls take C strings. The old root ends up on top of the new one, and is unmounted
    // from there (pivot_root(2)).
    unsafe {
        check(libc::chdir(directory.as_ptr()).into())?;
        check(libc::syscall(libc::SYS_pivot_root, here, here))?;
        check(libc::umount2(here, libc::MNT_DETACH).into())?;
        check(libc::chdir(c"/".as_ptr()).into())
    }
}
