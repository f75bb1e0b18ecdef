//! Keeps the engine's own program out of its containers' reach (CVE-2019-5736).

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use libc::MOUNT_ATTR_RDONLY;
use nix::fcntl::AtFlags;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::execveat;
use rustix::fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::container::kernel::mount_calls::{Extent, MountAttributes, mount_setattr};

/// The link to the program that this process runs.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// Re-executes this program from a read-only mount of its file that is attached nowhere or, where
/// an ordinary user can't make mounts, from a sealed copy in memory. Returns at once if it can't be
/// written already. A program that makes containers on a kernel that it doesn't trust them with
/// calls this before anything else.
///
/// A workload that is `/proc/self/exe`, or a script with that as its interpreter, runs the engine's
/// program inside the container. There it could keep the file open until no process runs it any
/// more, and then write to it: the next container's engine would be the attacker's. The kernel
/// refuses that for a read-only mount, and this one is in no mount namespace in which anybody could
/// change it.
///
/// [`std::env::current_exe`] doesn't return the file's path afterwards.
///
/// # Errors
///
/// The kernel's.
pub fn protect_executable() -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let current = open_tree(CWD, OWN_EXECUTABLE, flags)?;
    if fstatvfs(&current)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let copy = match open_tree(CWD, OWN_EXECUTABLE, flags | OpenTreeFlags::OPEN_TREE_CLONE) {
        Err(rustix::io::Errno::PERM) => return run_sealed_copy(),
        other => other?,
    };
    let read_only = MountAttributes {
        set: MOUNT_ATTR_RDONLY,
        ..Default::default()
    };
    mount_setattr(&copy, read_only, Extent::Mount)?;
    run(&copy)
}

/// Re-executes a copy in memory with every seal: neither its contents nor its seals can be changed
/// ([memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html)).
fn run_sealed_copy() -> io::Result<()> {
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let mut own = File::open(OWN_EXECUTABLE)?;
    // A file that isn't in memory has no seals.
    if fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(all)) {
        return Ok(());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match memfd_create(c"nacre", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every memfd is executable.
        Err(rustix::io::Errno::INVAL) => memfd_create(c"nacre", flags),
        other => other,
    }?;
    io::copy(&mut own, &mut File::from(copy.try_clone()?))?;
    fcntl_add_seals(&copy, all)?;
    run(&copy)
}

fn run(file: &OwnedFd) -> io::Result<()> {
    let args = c_strings(std::env::args_os())?;
    let env = c_strings(std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    }))?;
    match execveat(file, c"", &args, &env, AtFlags::AT_EMPTY_PATH) {
        Err(error) => Err(error.into()),
    }
}

fn c_strings(strings: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    strings
        .map(|string| CString::new(string.into_vec()).map_err(io::Error::from))
        .collect()
}
