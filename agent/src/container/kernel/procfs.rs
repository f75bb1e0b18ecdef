//! The caller's `/proc`, opened before the container's can be in its place.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::Mode;

use crate::container::error::{InitError, Step, StepError};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs};

/// A proc file system. `self` in it is the process that looks, whatever namespaces it is in by
/// then.
#[derive(Debug)]
pub(crate) struct Proc(OwnedFd);

impl Proc {
    /// Opens `/proc`, which must be a proc file system.
    pub(crate) fn open() -> Result<Self, InitError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc = open("/proc", flags, Mode::empty()).step(|| "open /proc")?;
        if !is_proc(&proc).step(|| "look at /proc")? {
            return Err(InitError::NotProc);
        }
        Ok(Proc(proc))
    }

    /// Duplicates it, for a process that closes its own descriptors.
    pub(crate) fn again(proc: BorrowedFd<'_>) -> io::Result<Self> {
        proc.try_clone_to_owned().map(Proc)
    }

    /// Writes to a file in it, but not to what is mounted over it.
    pub(crate) fn write(&self, path: &str, value: &str) -> Result<(), StepError> {
        self.write_file(path, value)
            .step(|| format!("write {value} to /proc/{path}"))
    }

    /// As [`Proc::write`], with only the kernel's error.
    pub(crate) fn write_file(&self, path: &str, value: &str) -> io::Result<()> {
        self.own_file(path, OFlag::O_WRONLY)?
            .write_all(value.as_bytes())
    }

    /// Reads a file in it, but not what is mounted over it.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        self.own_file(path, OFlag::O_RDONLY)?
            .read_to_string(&mut text)?;
        Ok(text)
    }

    fn own_file(&self, path: &str, flags: OFlag) -> io::Result<File> {
        let file = self.open_file(path, flags)?;
        if is_proc(&file)? {
            Ok(file)
        } else {
            Err(io::Error::other("it isn't a file of a proc file system"))
        }
    }

    /// Writes one of this thread's attributes for security modules
    /// ([proc_pid_attr(5)](https://man7.org/linux/man-pages/man5/proc_pid_attr.5.html)).
    pub(crate) fn write_attribute(&self, name: &str, value: &str) -> io::Result<()> {
        let how = OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
            // A file that accepts any write may be mounted over it.
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
        let path = format!("thread-self/attr/{name}");
        let mut file = File::from(openat2(&self.0, path.as_str(), how)?);
        file.write_all(value.as_bytes())
    }

    /// Opens a file in it.
    pub(crate) fn open_file(&self, path: &str, flags: OFlag) -> io::Result<File> {
        let file = openat(&self.0, path, flags | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(file.into())
    }
}

impl AsFd for Proc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether `fd` is of a proc file system.
pub(crate) fn is_proc(fd: impl AsFd) -> nix::Result<bool> {
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC as FsType)
}
