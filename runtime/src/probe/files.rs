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

/// How many entries of a kernel's file system are looked at.
const MOST_ENTRIES: usize = 50_000;

/// How many paths are told.
const MOST_TOLD: usize = 200;

/// What of a file system of the kernel's can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    /// How many files and directories there are.
    pub(crate) entries: usize,
    /// How many files can be read.
    pub(crate) readable: usize,
    /// How many can be written to, in the file system and by their modes.
    pub(crate) writable: usize,
    /// Some of those.
    pub(crate) written: Vec<String>,
    /// Whether there was more than is looked at.
    pub(crate) is_cut: bool,
}

impl Reached {
    /// Looks at all files below a directory, but for those of processes other than this one.
    pub(super) fn below(top: &str) -> Self {
        let mut reached = Self::default();
        let mut directories = VecDeque::from([PathBuf::from(top)]);
        while let Some(directory) = directories.pop_front() {
            let is_top = directory == Path::new("/proc");
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                reached.entries += 1;
                if reached.entries > MOST_ENTRIES {
                    reached.is_cut = true;
                    return reached;
                }
                let Ok(kind) = entry.file_type() else {
                    continue;
                };
                if kind.is_dir() {
                    if !is_top || !is_of_processes(&entry.file_name()) {
                        directories.push_back(entry.path());
                    }
                } else if kind.is_file() {
                    reached.add(&entry.path());
                }
            }
        }
        reached
    }

    fn add(&mut self, path: &Path) {
        if eaccess(path, AccessFlags::R_OK).is_ok() {
            self.readable += 1;
        }
        if eaccess(path, AccessFlags::W_OK).is_ok() {
            self.writable += 1;
            if self.written.len() < MOST_TOLD {
                self.written.push(path.to_string_lossy().into_owned());
            }
        }
    }
}

/// Whether a directory of `/proc` is of a process or a thread.
fn is_of_processes(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.iter().all(u8::is_ascii_digit) || matches!(name, b"self" | b"thread-self")
}

/// Returns the devices in `/dev`, by name, kind and number.
pub(super) fn devices() -> Vec<String> {
    let mut devices = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                directories.push(path);
            } else if let Some(device) = device(kind, &path) {
                devices.push(device);
            }
            if devices.len() >= MOST_TOLD {
                break;
            }
        }
    }
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
        let reached = Reached::below(directory.path().to_str().unwrap());
        assert_eq!((reached.readable, reached.writable), (3, 3));
        let mut written = reached.written;
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
