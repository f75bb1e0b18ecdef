//! What the monitor's process gives up: at its beginning what it needs nothing of, and before the
//! guest's first instruction all that only making a machine takes.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::call::check;
use crate::inherited;
use crate::own_user::OwnUser;
use crate::thread_filter::ThreadFilter;

/// Its name in process lists.
const NAME: &CStr = c"nacre-monitor";

/// Where the tmpfs that becomes the root is first mounted. Every host has this directory.
const MOUNT_POINT: &CStr = c"/proc";

/// What the monitor's process has from its parent.
pub struct Inheritance {
    /// The parent's descriptors that it closes: all that the machine isn't made of. Standard input and
    /// output are always closed.
    pub closed: Vec<RawFd>,
    /// Whether it keeps standard error, for the messages of this process.
    pub keeps_stderr: bool,
}

/// Leaves the parent's session, keys, files and namespaces. `parent` is a pidfd.
pub(super) fn begin(parent: &OwnedFd, inheritance: &Inheritance) -> io::Result<()> {
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
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let last = if inheritance.keeps_stderr { 1 } else { 2 };
    for stream in 0..=last {
        // SAFETY: a plain call. The streams are the workload's, whose readers wait for their end.
        check(unsafe { libc::dup2(null.as_raw_fd(), stream) }.into())?;
    }
    inherited::leave_keyring()?;
    inherited::hide()
}

/// Gives up the host's files and all rights.
pub(super) fn finish(user: OwnUser) -> io::Result<()> {
    empty_root()?;
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit is valid for the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) }.into())?;
    user.become_it()?;
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
