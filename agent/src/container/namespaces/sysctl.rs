//! `linux.sysctl`: kernel parameters of the container's own namespaces.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use std::fs::File;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::container::config::sysctl::path;
use crate::container::error::{InitError, Step};
use crate::container::kernel::procfs::is_proc;

/// Writes parameters through `proc`, a proc file system. Their namespace is the writing process's,
/// whichever proc file system it is.
pub(crate) fn write(
    proc: BorrowedFd<'_>,
    parameters: &BTreeMap<&str, &str>,
) -> Result<(), InitError> {
    for (name, value) in parameters {
        let step = || format!("set linux.sysctl {name} to {value:?}");
        let path = path(name).ok_or(nix::errno::Errno::ENOENT).step(step)?;
        let how = OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let file = openat2(proc, &PathBuf::from("sys").join(path), how).step(step)?;
        if !is_proc(&file).step(step)? {
            return Err(InitError::NotProc);
        }
        File::from(file).write_all(value.as_bytes()).step(step)?;
    }
    Ok(())
}
