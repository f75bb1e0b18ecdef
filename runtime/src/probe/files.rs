//! The kernel's files that can be read or written, and the devices.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs::{self, FileType},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, eaccess};
use serde::{Deserialize, Serialize};

/// How many entries of a file system are looked at.
const MOST_ENTRIES: usize = 50_000;

/// How many devices are told, and how many bytes all of them may have: an image can have any number, with
/// names as long as it likes, and who reads this keeps a bounded number of bytes.
const MOST_DEVICES: usize = 200;
const MOST_BYTES: usize = 8 << 10;

/// What of a file system of the kernel's can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    /// How many files and directories there are.
    pub(crate) entries: usize,
    /// How many files can be read.
    pub(crate) readable: usize,
    /// How many can be written to, in the file system and by their modes.
    pub(crate) writable: usize,
    /// Whether there was more than is looked at.
    pub(crate) is_cut: bool,
}

impl Reached {
    /// Looks at all files below a directory, but for those of processes other than this one.
    pub(super) fn below(top: &str) -> Self {
        Self::visit(top, |_| ())
    }

    /// Does the same, and tells of each that can be written to.
    fn visit(top: &str, mut tell: impl FnMut(&Path)) -> Self {
        let mut reached = Self::default();
        let entries = walk(top, |kind, path| {
            if !kind.is_file() {
                return;
            }
            let is_ours = |access| usize::from(eaccess(path, access).is_ok());
            reached.readable += is_ours(AccessFlags::R_OK);
            if is_ours(AccessFlags::W_OK) > 0 {
                reached.writable += 1;
                tell(path);
            }
        });
        reached.entries = entries.min(MOST_ENTRIES);
        reached.is_cut = entries > MOST_ENTRIES;
        reached
    }
}

/// Visits what is below a directory, those above first, but for the processes in `/proc`. Returns how much
/// was seen: more than [`MOST_ENTRIES`] if there is more than was visited.
fn walk(top: &str, mut visit: impl FnMut(FileType, &Path)) -> usize {
    let mut directories = VecDeque::from([PathBuf::from(top)]);
    let mut entries = 0;
    while let Some(directory) = directories.pop_front() {
        let has_processes = directory == Path::new("/proc");
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            entries += 1;
            if entries > MOST_ENTRIES {
                return entries;
            }
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            visit(kind, &entry.path());
            if kind.is_dir() && !(has_processes && is_of_processes(&entry.file_name())) {
                directories.push_back(entry.path());
            }
        }
    }
    entries
}

/// Whether a directory of `/proc` is of a process or a thread.
fn is_of_processes(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.iter().all(u8::is_ascii_digit) || matches!(name, b"self" | b"thread-self")
}

/// Returns the devices in `/dev`, by name, kind and number.
pub(super) fn devices() -> Vec<String> {
    let mut devices = Vec::new();
    let mut room = MOST_BYTES;
    walk("/dev", |kind, path| {
        let device = device(kind, path).filter(|device| device.len() <= room);
        if let Some(device) = device.filter(|_| devices.len() < MOST_DEVICES) {
            room -= device.len();
            devices.push(device);
        }
    });
    devices.sort();
    devices
}

fn device(kind: FileType, path: &Path) -> Option<String> {
    let word = match kind {
        _ if kind.is_char_device() => "c",
        _ if kind.is_block_device() => "b",
        _ => return None,
    };
    let number = fs::symlink_metadata(path).ok()?.rdev();
    let (major, minor) = (libc::major(number), libc::minor(number));
    Some(format!("{} {word} {major}:{minor}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        for name in ["1", "a"] {
            fs::create_dir(path(name)).unwrap();
        }
        for name in ["1/d", "a/b", "c"] {
            fs::write(path(name), "").unwrap();
        }
        std::os::unix::fs::symlink("c", path("link")).unwrap();
        let mut written = Vec::new();
        let top = directory.path().to_str().unwrap();
        let reached = Reached::visit(top, |path| written.push(path.display().to_string()));
        assert_eq!((reached.readable, reached.writable), (3, 3));
        written.sort();
        let expected = ["1/d", "a/b", "c"].map(|name| path(name).display().to_string());
        assert_eq!(written, expected);
        assert!(is_of_processes(OsStr::new("17")) && !is_of_processes(OsStr::new("irq")));
    }

    #[test]
    fn devices_have_numbers() {
        assert!(devices().contains(&"/dev/null c 1:3".to_owned()));
    }
}
