//! The caller's `/proc`, opened before the container's can be in its place.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::Mode;

use super::error::{InitError, Step};
use super::mounts::is_proc;

/// A proc file system. `self` in it is whoever looks, in whatever namespaces it is by then.
#[derive(Debug)]
pub(super) struct Proc(OwnedFd);

impl Proc {
    /// Opens `/proc`, which must be one.
    pub(super) fn open() -> Result<Self, InitError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc = open("/proc", flags, Mode::empty()).step(|| "open /proc")?;
        if !is_proc(&proc).step(|| "look at /proc")? {
            return Err(InitError::NotProc);
        }
        Ok(Proc(proc))
    }

    /// The same, for a process that lets go of its own descriptors.
    pub(super) fn again(proc: BorrowedFd<'_>) -> io::Result<Self> {
        proc.try_clone_to_owned().map(Proc)
    }

    /// Writes to a file in it. What is mounted over it isn't written to.
    pub(super) fn write(&self, path: &str, value: &str) -> Result<(), InitError> {
        self.write_file(path, value)
            .step(|| format!("write {value} to /proc/{path}"))
    }

    /// As [`Proc::write`], with the kernel's error alone.
    pub(super) fn write_file(&self, path: &str, value: &str) -> io::Result<()> {
        self.own_file(path, OFlag::O_WRONLY)?
            .write_all(value.as_bytes())
    }

    /// Reads a file in it. What is mounted over it isn't read.
    pub(super) fn read(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        self.own_file(path, OFlag::O_RDONLY)?
            .read_to_string(&mut text)?;
        Ok(text)
    }

    fn own_file(&self, path: &str, flags: OFlag) -> io::Result<File> {
        let file = self.open_file(path, flags)?;
        match is_proc(&file)? {
            true => Ok(file),
            false => Err(io::Error::other("it isn't a file of a proc file system")),
        }
    }

    /// Writes one of the attributes by which security modules know this thread
    /// ([proc_pid_attr(5)](https://man7.org/linux/man-pages/man5/proc_pid_attr.5.html)).
    pub(super) fn write_attribute(&self, name: &str, value: &str) -> io::Result<()> {
        let how = OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
            // Another file may be mounted over it that takes what it is given.
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
    pub(super) fn open_file(&self, path: &str, flags: OFlag) -> io::Result<File> {
        let file = openat(&self.0, path, flags | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(file.into())
    }
}

impl AsFd for Proc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
