//! Closes a stand-in's descriptors, drops its rights and hides it.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::{
    errno::Errno,
    sys::prctl,
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// The first descriptor after the standard streams.
const FIRST: RawFd = 3;

/// Closes what this process has inherited from its caller: all descriptors above the standard
/// streams that aren't close-on-exec, as all of its own are. What outlives the caller mustn't hold
/// its locks and pipes.
pub(in crate::isolation::vm) fn close_inherited() -> io::Result<()> {
    for fd in open_descriptors()? {
        // SAFETY: the calls take no pointers. Nothing in this program uses a descriptor that it
        // hasn't opened.
        unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFD);
            if flags != -1 && flags & libc::FD_CLOEXEC == 0 {
                libc::close(fd);
            }
        }
    }
    Ok(())
}

/// Returns the descriptors above the standard streams.
pub(in crate::isolation::vm) fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let fd: Option<RawFd> = name.to_str().and_then(|fd| fd.parse().ok());
        found.extend(fd.filter(|fd| *fd >= FIRST));
    }
    // The listing had one of its own, which is the next to be opened.
    // SAFETY: the call takes no pointers.
    found.retain(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1);
    Ok(found)
}

/// Leaves nothing open but `null`, which is `/dev/null`, as the standard streams, and the socket
/// `kept`, which is returned at its new descriptor, the first after those.
///
/// # Safety
///
/// Nothing else that was open may be used or closed any more, nor may `kept` and `null`.
pub(in crate::isolation::vm) unsafe fn keep_nothing_but(
    kept: RawFd,
    null: &File,
) -> io::Result<UnixStream> {
    let check = |succeeded: bool| {
        if succeeded {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    for fd in 0..FIRST {
        // SAFETY: the call takes no pointers, and both descriptors are open.
        check(unsafe { libc::dup2(null.as_raw_fd(), fd) } != -1)?;
    }
    // SAFETY: the calls take no pointers; the rest is the caller's promise.
    unsafe {
        check(kept == FIRST || libc::dup3(kept, FIRST, libc::O_CLOEXEC) != -1)?;
        check(libc::close_range(FIRST as u32 + 1, u32::MAX, 0) == 0)?;
        Ok(UnixStream::from_raw_fd(FIRST))
    }
}

/// Becomes root in this process's user namespace, without supplementary groups.
pub(super) fn become_root() -> nix::Result<()> {
    match setgroups(&[]) {
        // Where an ordinary user has mapped its own group alone, nobody may leave groups.
        Err(Errno::EPERM) if may_set_groups() => {}
        other => other?,
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// Whether this process itself has the right to set groups.
fn may_set_groups() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETGID))
}

/// Gives up every capability and every way to gain one, and hides this process from anyone without
/// special rights. It must have a single thread.
pub(super) fn drop_rights() -> io::Result<()> {
    clear_ambient_capability_set()?;
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            // There are no more capabilities.
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

/// Hides this process from anyone without special rights. A change of ids undoes it.
pub(super) fn hide() -> io::Result<()> {
    prctl::set_dumpable(false).map_err(Errno::into)
}
