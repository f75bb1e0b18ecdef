//! `tmpcopyup`: a tmpfs that starts with the contents of the directory that it covers.
//!
//! The directory is the image's, so it may hold anything. Each entry is opened by its name in an
//! open directory, without following links or entering other mounts, and is examined through the
//! descriptor.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use crate::container::kernel::sys;

/// The maximum number of entries that are copied.
const MAX_ENTRIES: u32 = 100_000;

/// The maximum depth of a directory below the one that is copied.
const MAX_DEPTH: u32 = 100;

/// Copies the contents of the directory `from` to `to`, an empty one: files, directories, links,
/// devices and FIFOs, with their owners, modes and times. Leaves out sockets, which nobody listens
/// on, and whatever is mounted below.
///
/// # Errors
///
/// `E2BIG` for more than 100,000 entries, `ELOOP` for more than 100 levels; `ENOSPC` if the tmpfs
/// is too small, and the kernel's other errors.
pub(crate) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    copy_directory(from, to, MAX_DEPTH, &mut { MAX_ENTRIES })
}

fn copy_directory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    depth_left: u32,
    entries_left: &mut u32,
) -> io::Result<()> {
    let depth_left = depth_left.checked_sub(1).ok_or(Errno::ELOOP)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = Dir::from_fd(openat(from, c".", flags, Mode::empty())?)?;
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        *entries_left = entries_left.checked_sub(1).ok_or(Errno::E2BIG)?;
        let found = match open_entry(from, name, OFlag::O_PATH) {
            // A mount point, or an entry that was removed meanwhile.
            Err(Errno::EXDEV | Errno::ENOENT) => continue,
            found => found?,
        };
        let status = fstat(&found)?;
        match kind_of(&status) {
            SFlag::S_IFDIR => {
                mkdirat(to, name, Mode::S_IRWXU)?;
                let made = open_entry(to, name, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
                copy_directory(found.as_fd(), made.as_fd(), depth_left, entries_left)?;
            }
            SFlag::S_IFREG => copy_file(from, to, name)?,
            SFlag::S_IFLNK => symlinkat(readlinkat(&found, c"")?.as_os_str(), to, name)?,
            kind @ (SFlag::S_IFIFO | SFlag::S_IFCHR | SFlag::S_IFBLK) => {
                mknodat(to, name, kind, Mode::empty(), status.st_rdev)?;
            }
            _ => continue,
        }
        give_attributes(to, name, &status)?;
    }
    Ok(())
}

/// Opens an entry of a directory, whatever its type.
fn open_entry(directory: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV);
    openat2(directory, name, how)
}

fn kind_of(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits())
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // It may have been replaced by something else, whose open must not block.
    let source = open_entry(from, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    if kind_of(&fstat(&source)?) != SFlag::S_IFREG {
        return Err(Errno::ESTALE.into());
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let copy = openat(to, name, flags, Mode::S_IRUSR)?;
    io::copy(&mut File::from(source), &mut File::from(copy))?;
    Ok(())
}

/// Gives an entry of our directory the owner, mode and times of `status`.
fn give_attributes(directory: BorrowedFd<'_>, name: &CStr, status: &FileStat) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    let entry = open_entry(directory, name, OFlag::O_PATH)?;
    fchownat(&entry, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    if kind_of(&fstat(&entry)?) != SFlag::S_IFLNK {
        sys::set_mode(&entry, Mode::from_bits_truncate(status.st_mode))?;
    }
    let accessed = TimeSpec::new(status.st_atime, status.st_atime_nsec);
    let modified = TimeSpec::new(status.st_mtime, status.st_mtime_nsec);
    let no_follow = UtimensatFlags::NoFollowSymlink;
    utimensat(directory, name, &accessed, &modified, no_follow)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use super::*;

    fn copy(from: &Path, to: &Path) -> io::Result<()> {
        let [from, to] = [from, to].map(|path| File::open(path).unwrap());
        copy_up(from.as_fd(), to.as_fd())
    }

    #[test]
    fn all_kinds_of_files_are_copied() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        let at = |path: &str| from.path().join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/file"), "text").unwrap();
        fs::set_permissions(at("a/b/file"), Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(at("a"), Permissions::from_mode(0o1500)).unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRUSR).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let old = TimeSpec::new(1_000_000, 7);
        let no_follow = UtimensatFlags::NoFollowSymlink;
        for name in ["link", "a/b/file", "a/b", "a"] {
            utimensat(nix::fcntl::AT_FDCWD, &at(name), &old, &old, no_follow).unwrap();
        }
        copy(from.path(), to.path()).unwrap();
        let copied = |path: &str| fs::symlink_metadata(to.path().join(path)).unwrap();
        assert_eq!(fs::read(to.path().join("a/b/file")).unwrap(), b"text");
        assert_eq!(copied("a/b/file").mode(), 0o104_751);
        assert_eq!(copied("a").mode(), 0o041_500);
        assert_eq!(copied("fifo").mode(), 0o010_400);
        let target = fs::read_link(to.path().join("link")).unwrap();
        assert_eq!(target, Path::new("/etc/passwd"));
        for name in ["link", "a/b/file", "a/b", "a"] {
            assert_eq!(
                (copied(name).mtime(), copied(name).mtime_nsec()),
                (1_000_000, 7),
                "{name}"
            );
        }
        assert!(!to.path().join("socket").exists());
    }

    #[test]
    fn there_is_a_bound_to_it() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        fs::create_dir_all(from.path().join("x/".repeat(99))).unwrap();
        copy(from.path(), to.path()).unwrap();
        let to = tempfile::tempdir().unwrap();
        fs::create_dir_all(from.path().join("x/".repeat(100))).unwrap();
        let error = copy(from.path(), to.path()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        let [from, to] = [from.path(), to.path()].map(|path| File::open(path).unwrap());
        let error = copy_directory(from.as_fd(), to.as_fd(), 100, &mut 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
    }
}
