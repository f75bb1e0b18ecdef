//! Decides what is in the root of a jailed QEMU: its shared libraries, their loader, its modules,
//! and nothing else of the host's.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where shared libraries are by convention. A symbolic link on the host is also one in the jail.
const CUSTOMARY: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64"];

/// The directory beside the libraries that has QEMU's modules; in Debian, TCG is one of them.
const MODULES: &str = "qemu";

/// A directory entry in the root. Paths have no leading slash.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// An empty directory.
    Empty { path: CString },
    /// A directory of the host's.
    Directory { path: CString, host: CString },
    /// A file of the host's.
    File { path: CString, host: CString },
    /// A symbolic link, the same as on the host.
    Link { path: CString, target: CString },
}

/// Parses a loader's list of the files that it loads; empty if it lists nothing.
pub(super) fn parse(said: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let found = line.split_once(" => ").map_or(line, |(_, found)| found);
        let (path, _address) = found.trim().rsplit_once(" (0x")?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    said.lines().filter_map(path).collect()
}

/// Returns what is to be in the root for these libraries, parents before their contents. Without
/// libraries, the program is linked statically or its loader doesn't list them: then it gets all of
/// the host's.
pub(super) fn entries(binary: &Path, libraries: &[PathBuf]) -> io::Result<Vec<Entry>> {
    let mut directories = BTreeSet::from([PathBuf::from("/proc")]);
    // QEMU looks for modules relative to its own directory, which only needs to exist.
    directories.extend(binary.parent().map(Path::to_owned));
    let mut links = Vec::new();
    let mut mounts = Vec::new();
    for path in CUSTOMARY.map(Path::new) {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => links.push(Entry::Link {
                path: inside(path)?,
                target: c_string(fs::read_link(path)?.as_os_str())?,
            }),
            Ok(metadata) if metadata.is_dir() && libraries.is_empty() => {
                mounts.push(directory(path)?);
                directories.insert(path.to_owned());
            }
            _ => {}
        }
    }
    let mut parents: Vec<(&Path, PathBuf)> = Vec::new();
    let mut placed = BTreeSet::new();
    for library in libraries {
        let (Some(parent), Some(name)) = (library.parent(), library.file_name()) else {
            continue;
        };
        let known = parents.iter().position(|(known, _)| *known == parent);
        let index = match known {
            Some(index) => index,
            None => {
                let real = parent.canonicalize()?;
                let modules = real.join(MODULES);
                if directories.insert(real.clone()) && modules.is_dir() {
                    mounts.push(directory(&modules)?);
                    directories.insert(modules);
                }
                parents.push((parent, real));
                parents.len() - 1
            }
        };
        let path = parents[index].1.join(name);
        if placed.insert(path.clone()) {
            mounts.push(Entry::File {
                path: inside(&path)?,
                host: c_string(library.as_os_str())?,
            });
        }
    }
    let above: BTreeSet<&Path> = directories.iter().flat_map(|d| d.ancestors()).collect();
    let mut entries = Vec::with_capacity(above.len() + links.len() + mounts.len());
    // A parent sorts before what is in it; the root itself exists.
    for path in above.into_iter().skip(1) {
        let path = inside(path)?;
        entries.push(Entry::Empty { path });
    }
    entries.extend(links);
    entries.extend(mounts);
    Ok(entries)
}

fn directory(path: &Path) -> io::Result<Entry> {
    Ok(Entry::Directory {
        path: inside(path)?,
        host: c_string(path.as_os_str())?,
    })
}

/// Returns an absolute path relative to the root.
fn inside(path: &Path) -> io::Result<CString> {
    c_string(path.strip_prefix("/").unwrap_or(path).as_os_str())
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_loader_lists_is_understood() {
        let said = "\tlinux-vdso.so.1 (0x00007f6a4b5fd000)\n\
                    \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f6a4a300000)\n\
                    \tlibgone.so.1 => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f6a4b5ff000)\n";
        let paths = [
            "/lib/x86_64-linux-gnu/libz.so.1",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(parse(said), paths.map(PathBuf::from));
        for nothing in [
            "",
            "\tstatically linked\n",
            "QEMU emulator version 7.2.0 (x)\n",
        ] {
            assert!(parse(nothing).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn a_file_has_its_place_and_the_directories_above_it() {
        let host = tempfile::tempdir().unwrap();
        let host = host.path().canonicalize().unwrap();
        fs::create_dir_all(host.join("real/qemu")).unwrap();
        std::os::unix::fs::symlink("real", host.join("link")).unwrap();
        let library = host.join("link/libz.so.1");
        let twice = [library.clone(), host.join("real/libz.so.1")];
        let entries = entries(Path::new("/usr/bin/qemu"), &twice).unwrap();
        let file = Entry::File {
            path: inside(&host.join("real/libz.so.1")).unwrap(),
            host: c_string(library.as_os_str()).unwrap(),
        };
        let place = |wanted: &Entry| entries.iter().position(|entry| entry == wanted);
        let last = place(&file).unwrap();
        let modules = directory(&host.join("real/qemu")).unwrap();
        assert!(place(&modules).is_some());
        for path in [
            "/proc",
            "/usr",
            "/usr/bin",
            host.join("real").to_str().unwrap(),
        ] {
            let path = inside(Path::new(path)).unwrap();
            assert!(place(&Entry::Empty { path }).unwrap() < last);
        }
        let files = entries.iter().filter(|e| matches!(e, Entry::File { .. }));
        assert_eq!(files.count(), 1);
    }
}
