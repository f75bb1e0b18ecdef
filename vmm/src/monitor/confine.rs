//! What the monitor's process gives up: at its beginning what it needs nothing of, and before the
//! guest's first instruction all that only making a machine takes.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::call::check;
use crate::landlock::{self, Scope};
use crate::own_user::OwnUser;
use crate::thread_filter::ThreadFilter;
use crate::{inherited, limits};

/// Its name in process lists.
const NAME: &CStr = c"nacre-monitor";

/// Where the tmpfs that becomes the root is first mounted. Every host has this directory.
const MOUNT_POINT: &CStr = c"/proc";

/// How many descriptors it may have: those of the guest's connections over vsock, of devices and of
/// taps are about half as many.
const MAX_FILES: u64 = 4096;

/// How many threads its user may have, QEMU's among them: as many as its cgroup.
const MAX_THREADS: u64 = 256;

/// What the monitor's process has from its parent.
pub struct Inheritance {
    /// The parent's descriptors that it closes: all that the machine isn't made of. The standard
    /// streams are always closed.
    pub closed: Vec<RawFd>,
    /// What becomes its standard error, for the messages of this process: the end of something that
    /// the parent reads, which limits what it makes of them.
    pub messages: OwnedFd,
    /// The size of the largest file that the machine writes to, in bytes.
    pub largest_file: u64,
}

/// Leaves the parent's session, keys, files and namespaces. `parent` is a pidfd.
pub(super) fn begin(parent: &OwnedFd, inheritance: Inheritance) -> io::Result<()> {
    replace_streams(inheritance.messages)?;
    if !inherited::end_with(parent)? {
        return Err(io::Error::other("its parent has ended"));
    }
    inherited::name(NAME)?;
    inherited::leave_namespaces()?;
    for descriptor in &inheritance.closed {
        // SAFETY: a plain call. The descriptors are nobody's in this process, as the caller of
        // `spawn` has promised.
        unsafe { libc::close(*descriptor) };
    }
    inherited::leave_keyring()?;
    inherited::hide()
}

/// Lets go of the parent's standard streams, which are the workload's: their readers wait for their
/// end.
fn replace_streams(messages: OwnedFd) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let (null, messages) = (null.as_raw_fd(), messages.as_raw_fd());
    for (stream, new) in [(0, null), (1, null), (2, messages)] {
        // SAFETY: a plain call; what is replaced is only used by its number.
        check(unsafe { libc::dup2(new, stream) }.into())?;
    }
    Ok(())
}

/// Gives up the host's files and all rights. It may write to a file up to that size, in bytes.
pub(super) fn finish(user: OwnUser, largest_file: u64) -> io::Result<()> {
    empty_root()?;
    user.become_it()?;
    // Not earlier: a user namespace passes on its maker's limit on processes to the maker's user.
    for (resource, most) in [
        (libc::RLIMIT_NOFILE, MAX_FILES),
        (libc::RLIMIT_NPROC, MAX_THREADS),
        (libc::RLIMIT_FSIZE, largest_file),
        (libc::RLIMIT_MEMLOCK, 0),
        (libc::RLIMIT_CORE, 0),
    ] {
        limits::lower(resource, most)?;
    }
    // QEMU, which isn't confined with it, is paused and ended by signals.
    landlock::forbid_files(Scope::Signals)?;
    // The change of user has undone these.
    // SAFETY: a plain call.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }.into())?;
    inherited::hide()?;
    ThreadFilter::confine_process()
}

/// Makes an empty directory that can't be written to this process's root.
fn empty_root() -> io::Result<()> {
    let none = ptr::null::<libc::c_char>();
    let tmpfs = c"tmpfs".as_ptr();
    let inert = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let options = c"mode=555,size=4k,nr_inodes=2".as_ptr().cast();
    // SAFETY: all pointers are to strings that end with a NUL.
    check(unsafe { libc::mount(tmpfs, MOUNT_POINT.as_ptr(), tmpfs, inert, options) }.into())?;
    inherited::change_root(MOUNT_POINT)?;
    let sealed = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | inert;
    // SAFETY: a string that ends with a NUL, or null where the call accepts that.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, sealed, ptr::null()) }.into())
}
