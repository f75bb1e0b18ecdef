//! What a stand-in gives up.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::prctl,
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// The descriptors after the standard streams.
const FIRST: RawFd = 3;

/// Closes what this process has inherited from its caller: all but the standard streams that isn't
/// to be closed by an exec, as everything of its own is. The caller's locks and pipes aren't held
/// by what outlives it.
pub(in crate::isolation::vm) fn close_inherited() -> io::Result<()> {
    for fd in open_descriptors()? {
        // SAFETY: the calls take no pointers. Nothing of this program's uses what it hasn't
        // opened.
        unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFD);
            if flags != -1 && flags & libc::FD_CLOEXEC == 0 {
                libc::close(fd);
            }
        }
    }
    Ok(())
}

/// Those above the standard streams.
fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let fd: Option<RawFd> = name.to_str().and_then(|fd| fd.parse().ok());
        found.extend(fd.filter(|fd| *fd >= FIRST));
    }
    Ok(found)
}

/// Makes `/dev/null`'s open file `null` the standard streams.
pub(super) fn replace_streams(null: &File) -> io::Result<()> {
    for fd in 0..FIRST {
        // SAFETY: the call takes no pointers, and both are open.
        if unsafe { libc::dup2(null.as_raw_fd(), fd) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Leaves nothing open but the standard streams and `kept`, which becomes the first after them.
///
/// # Safety
///
/// Nothing that was open may be used any more but by those numbers.
pub(super) unsafe fn close_all_but(kept: RawFd) -> io::Result<()> {
    // SAFETY: the calls take no pointers; the rest is the caller's promise.
    let closed = unsafe {
        let moved = kept == FIRST || libc::dup3(kept, FIRST, libc::O_CLOEXEC) != -1;
        moved && libc::close_range(FIRST as u32 + 1, u32::MAX, 0) == 0
    };
    match closed {
        true => Ok(()),
        false => Err(io::Error::last_os_error()),
    }
}

/// Becomes the root of the user namespace that this process is in, and of no group besides.
pub(super) fn become_root() -> nix::Result<()> {
    setgroups(&[])?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// Gives up every right and every way to one, and has nobody without special rights look at this
/// process. It must have a single thread.
pub(super) fn drop_rights() -> io::Result<()> {
    clear_ambient_capability_set()?;
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            // There are no more.
            Err(rustix::io::Errno::INVAL) => break,
            other => other?,
        }
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    set_capabilities(None, sets)?;
    prctl::set_no_new_privs()?;
    hide()
}

/// Has nobody without special rights look at this process. A change of ids undoes it.
pub(super) fn hide() -> io::Result<()> {
    prctl::set_dumpable(false).map_err(Errno::into)
}
