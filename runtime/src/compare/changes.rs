//! What a workload has left in its root: the files that were made, changed or removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::OsString,
    fs::{self, File, Metadata},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::interrupt;

/// How many files are looked at, and how many bytes of them are read.
const MOST_FILES: usize = 100_000;
const MOST_BYTES: u64 = 1 << 30;

/// The changes, by path below the root.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) files: BTreeMap<PathBuf, Entry>,
    /// The bytes that they hold on disk.
    pub(super) bytes: u64,
    /// Whether there were more than could be looked at.
    pub(super) is_cut: bool,
}

/// A file, as far as two are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file with so many bytes, and their hash.
    File(u64, u64),
    Directory,
    Link(OsString),
    /// It has been removed: overlayfs keeps a device 0/0 in its place.
    Removed,
    /// A device, a socket or a FIFO.
    Other,
}

impl Changes {
    /// Reads an overlay's upper directory, which nobody writes to any more.
    pub(super) fn read(upper: &Path, keys: &RandomState) -> io::Result<Self> {
        let mut reader = Reader {
            changes: Self::default(),
            linked: HashSet::new(),
            left: MOST_BYTES,
            keys,
        };
        reader.read(upper)?;
        Ok(reader.changes)
    }

    /// Returns the paths that aren't the same in both, with a word for how, in their order.
    pub(super) fn differences(&self, other: &Self) -> Vec<(PathBuf, &'static str)> {
        let paths: BTreeSet<_> = self.files.keys().chain(other.files.keys()).collect();
        let different = paths.into_iter().filter_map(|path| {
            let how = match (self.files.get(path), other.files.get(path)) {
                (Some(_), None) => "only in the first",
                (None, Some(_)) => "only in the second",
                (Some(a), Some(b)) if a.kind != b.kind => "content",
                (Some(a), Some(b)) if a.mode != b.mode => "mode",
                (Some(a), Some(b)) if a.owner != b.owner => "owner",
                _ => return None,
            };
            Some((path.clone(), how))
        });
        different.collect()
    }
}

/// Reads changes.
struct Reader<'a> {
    changes: Changes,
    /// The files with several names that were seen, by file system and number.
    linked: HashSet<(u64, u64)>,
    /// How many bytes of files may still be read.
    left: u64,
    keys: &'a RandomState,
}

impl Reader<'_> {
    fn read(&mut self, upper: &Path) -> io::Result<()> {
        let mut below = vec![(upper.to_owned(), PathBuf::new())];
        while let Some((directory, name)) = below.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if self.changes.files.len() >= MOST_FILES {
                    self.changes.is_cut = true;
                    return Ok(());
                }
                let (path, name) = (entry.path(), name.join(entry.file_name()));
                let metadata = entry.metadata()?;
                if self.is_new(&metadata) {
                    self.changes.bytes += metadata.blocks() * 512;
                }
                let kind = self.kind(&path, &metadata)?;
                if kind == Kind::Directory {
                    below.push((path, name.clone()));
                }
                let entry = Entry {
                    kind,
                    mode: metadata.mode() & 0o7777,
                    owner: (metadata.uid(), metadata.gid()),
                };
                self.changes.files.insert(name, entry);
            }
        }
        Ok(())
    }

    /// Whether a file wasn't seen by another name, by which its space was counted.
    fn is_new(&mut self, metadata: &Metadata) -> bool {
        let has_one_name = metadata.nlink() < 2 || metadata.is_dir();
        has_one_name || self.linked.insert((metadata.dev(), metadata.ino()))
    }

    fn kind(&mut self, path: &Path, metadata: &Metadata) -> io::Result<Kind> {
        let kind = metadata.file_type();
        Ok(if kind.is_dir() {
            Kind::Directory
        } else if kind.is_symlink() {
            Kind::Link(fs::read_link(path)?.into())
        } else if kind.is_char_device() && metadata.rdev() == 0 {
            Kind::Removed
        } else if kind.is_file() {
            let length = metadata.len();
            // Of one with holes only the size is compared: it may say that it has no end.
            let is_sparse = metadata.blocks() * 512 < length / 2;
            let read = if is_sparse { 0 } else { length.min(self.left) };
            self.changes.is_cut |= read < length;
            self.left -= read;
            Kind::File(length, hash(path, read, self.keys)?)
        } else {
            Kind::Other
        })
    }
}

fn hash(path: &Path, bytes: u64, keys: &RandomState) -> io::Result<u64> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let mut hasher = keys.build_hasher();
    let mut file = file.take(bytes);
    let mut buffer = vec![0; 64 << 10];
    loop {
        if interrupt::seen().is_some() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            length => hasher.write(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_differs_is_named() {
        let keys = RandomState::new();
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for directory in &directories {
            fs::create_dir(directory.path().join("a")).unwrap();
            for name in ["same", "a/content", "mode"] {
                fs::write(directory.path().join(name), name).unwrap();
            }
            symlink("same", directory.path().join("link")).unwrap();
        }
        let [one, two] = directories.each_ref().map(|it| it.path());
        let read = |path| Changes::read(path, &keys).unwrap();
        assert_eq!(read(one).differences(&read(two)), []);
        assert_eq!(read(one).files.len(), 5);
        fs::write(two.join("a/content"), "other").unwrap();
        fs::set_permissions(two.join("mode"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::remove_file(two.join("link")).unwrap();
        fs::write(two.join("new"), "").unwrap();
        let different = read(one).differences(&read(two));
        let names: Vec<_> = different
            .iter()
            .map(|(path, how)| (path.to_str().unwrap(), *how))
            .collect();
        let expected = [
            ("a/content", "content"),
            ("link", "only in the first"),
            ("mode", "mode"),
            ("new", "only in the second"),
        ];
        assert_eq!(names, expected);
    }
}
