//! Makes sockets that QEMU connects to: its network devices don't accept a connected socket, only a
//! path.
//!
//! The path is `/proc/self/fd/N`, for a descriptor that QEMU is given; the socket's file is in a
//! file system of its own that isn't mounted anywhere (fsmount(2)). So nobody else finds it, and
//! nothing is left of it, however this process ends.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::ptr;

/// The file system of the sockets.
pub(super) struct Doors {
    directory: OwnedFd,
    count: usize,
}

impl Doors {
    /// Makes an empty one. That takes `CAP_SYS_ADMIN`, as does QEMU's jail.
    pub(super) fn new() -> io::Result<Doors> {
        let none = ptr::null::<libc::c_char>();
        // SAFETY: strings that end with a NUL, or null where the call accepts that; the descriptors
        // returned are new, and nobody else's.
        let directory = unsafe {
            let context = owned(libc::syscall(
                libc::SYS_fsopen,
                c"tmpfs".as_ptr(),
                libc::FSOPEN_CLOEXEC,
            ))?;
            let create = libc::FSCONFIG_CMD_CREATE;
            let fd = context.as_raw_fd();
            let created = libc::syscall(libc::SYS_fsconfig, fd, create, none, none, 0);
            if created < 0 {
                return Err(io::Error::last_os_error());
            }
            owned(libc::syscall(
                libc::SYS_fsmount,
                fd,
                libc::FSMOUNT_CLOEXEC,
                libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
            ))?
        };
        Ok(Doors {
            directory,
            count: 0,
        })
    }

    /// Makes a socket, and a descriptor of its file through which QEMU, as another user, can
    /// connect.
    pub(super) fn open(&mut self) -> io::Result<(UnixListener, OwnedFd)> {
        let name = self.count.to_string();
        self.count += 1;
        let directory = self.directory.as_raw_fd();
        let listener = UnixListener::bind(format!("/proc/self/fd/{directory}/{name}"))?;
        let name = CString::new(name)?;
        // SAFETY: a string that ends with a NUL; the descriptor returned is new, and nobody else's.
        let file = unsafe {
            if libc::fchmodat(directory, name.as_ptr(), 0o666, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            let flags = libc::O_PATH | libc::O_CLOEXEC;
            owned(libc::openat(directory, name.as_ptr(), flags).into())?
        };
        Ok((listener, file))
    }
}

/// # Safety
///
/// The descriptor, as returned by a system call, must be nobody else's.
unsafe fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match fd {
        fd if fd < 0 => Err(io::Error::last_os_error()),
        // SAFETY: the caller's promise.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}
