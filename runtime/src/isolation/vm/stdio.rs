//! This process's standard streams: what they are, and how it lets go of them.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    sync::OnceLock,
};

/// A standard stream of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StandardStream {
    Input,
    Output,
    Error,
}

impl StandardStream {
    pub(super) const ALL: [Self; 3] = [Self::Input, Self::Output, Self::Error];

    fn number(self) -> RawFd {
        match self {
            Self::Input => libc::STDIN_FILENO,
            Self::Output => libc::STDOUT_FILENO,
            Self::Error => libc::STDERR_FILENO,
        }
    }

    fn metadata(self) -> io::Result<std::fs::Metadata> {
        File::from(self.as_fd().try_clone_to_owned()?).metadata()
    }

    /// Whether it is `/dev/null`.
    pub(super) fn is_null(self) -> io::Result<bool> {
        let metadata = self.metadata()?;
        Ok(metadata.file_type().is_char_device() && metadata.rdev() == libc::makedev(1, 3))
    }

    /// Whether it and another are the same file.
    pub(super) fn is_same(self, other: Self) -> io::Result<bool> {
        let (a, b) = (self.metadata()?, other.metadata()?);
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    }

    /// Lets go of it: it becomes `/dev/null`.
    pub(super) fn release(self) -> io::Result<()> {
        let null = null()?;
        // SAFETY: dup2 takes no pointers, and both descriptors are open.
        if unsafe { libc::dup2(null.as_raw_fd(), self.number()) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl AsFd for StandardStream {
    /// Returns its descriptor, which is always open, though it may become another file's.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: Rust's start-up code opens the standard streams that aren't open, and they are
        // only ever replaced.
        unsafe { BorrowedFd::borrow_raw(self.number()) }
    }
}

/// Makes this process let go of its standard input and output, so that whoever holds their other
/// ends notices.
pub(super) fn release_input_and_output() -> io::Result<()> {
    StandardStream::Input.release()?;
    StandardStream::Output.release()
}

/// As [`release_input_and_output`], with standard error.
pub(super) fn release_all() -> io::Result<()> {
    release_input_and_output()?;
    StandardStream::Error.release()
}

/// `/dev/null`, opened before this process leaves the host's file systems.
static NULL: OnceLock<File> = OnceLock::new();

/// Opens what takes the place of the streams, so that it is at hand wherever this process goes.
pub(super) fn prepare_to_release() -> io::Result<()> {
    null().map(drop)
}

fn null() -> io::Result<&'static File> {
    if let Some(null) = NULL.get() {
        return Ok(null);
    }
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    Ok(NULL.get_or_init(|| null))
}
