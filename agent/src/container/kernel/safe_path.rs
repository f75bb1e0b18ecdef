//! Resolves paths in a root file system that isn't trusted.
//!
//! A symbolic link in an image may point anywhere, and what lies in a shared directory may change
//! between two looks at it. So a path is resolved once, by the kernel, with the container's root as
//! the root ([openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html),
//! `RESOLVE_IN_ROOT`), and used through the resulting descriptor.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, mkdirat};

/// How many dangling symbolic links are followed to make their targets. The kernel follows as many
/// links that aren't dangling.
const MAX_LINKS: u32 = 40;

/// How often a path is retried that changes while the kernel resolves it.
const MAX_TRIES: u32 = 128;

/// What to make of a path that doesn't exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Directory,
    /// An empty file.
    File,
}

/// Opens `path` below `root` with `O_PATH`.
pub(crate) fn open(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    open_with(root, path, ResolveFlag::empty())
}

/// As [`open`], but no part of the path may be a symbolic link.
pub(crate) fn open_without_links(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    open_with(root, path, ResolveFlag::RESOLVE_NO_SYMLINKS)
}

fn open_with(root: BorrowedFd<'_>, path: &Path, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(resolve | ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = if path.as_os_str().is_empty() {
        Path::new("/")
    } else {
        path
    };
    for _ in 1..MAX_TRIES {
        match openat2(root, path, how) {
            // Something was renamed meanwhile, and the kernel can't tell whether that matters.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
    openat2(root, path, how)
}

/// Opens `path` below `root` with `O_PATH`; if it doesn't exist, first makes it and its parent
/// directories.
pub(crate) fn open_or_make(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: FileKind,
) -> nix::Result<OwnedFd> {
    make(root, path, kind, &mut { MAX_LINKS })
}

fn make(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: FileKind,
    links_left: &mut u32,
) -> nix::Result<OwnedFd> {
    match open(root, path) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    // A path that ends in `..` has no name to make.
    let name = path.file_name().ok_or(Errno::ENOENT)?;
    let above = path.parent().unwrap_or(Path::new("/"));
    let directory = make(root, above, FileKind::Directory, links_left)?;
    let made = match kind {
        FileKind::Directory => mkdirat(&directory, name, Mode::from_bits_truncate(0o755)),
        FileKind::File => openat(
            &directory,
            name,
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC,
            Mode::from_bits_truncate(0o644),
        )
        .map(drop),
    };
    match made {
        Ok(()) => {}
        // A dangling symbolic link, whose target must be made, or another process was quicker.
        Err(Errno::EEXIST) => match readlinkat(&directory, name) {
            Ok(target) => {
                *links_left = links_left.checked_sub(1).ok_or(Errno::ELOOP)?;
                return make(root, &above.join(target), kind, links_left);
            }
            Err(Errno::EINVAL) => {}
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    }
    openat(
        &directory,
        name,
        OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// Makes a path absolute and removes `.` and `..` from it, without looking at the file system.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;

    use super::*;

    /// A root, and beside it an outside that nothing may ever reach.
    struct Scene {
        directory: tempfile::TempDir,
        root: File,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("outside")).unwrap();
            fs::create_dir(directory.path().join("root")).unwrap();
            let root = File::open(directory.path().join("root")).unwrap();
            Scene { directory, root }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.directory.path().join("root").join(path)
        }

        fn make(&self, path: &str, kind: FileKind) -> nix::Result<OwnedFd> {
            open_or_make(self.root.as_fd(), Path::new(path), kind)
        }

        fn assert_is(&self, fd: &OwnedFd, path: &str) {
            let (a, b) = (
                nix::sys::stat::fstat(fd).unwrap(),
                fs::metadata(self.at(path)).unwrap(),
            );
            assert_eq!((a.st_dev, a.st_ino), (b.dev(), b.ino()), "{path}");
            let outside = self.directory.path().join("outside");
            assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
        }
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, cleaned) in [
            ("/a/./b/../c/", "/a/c"),
            ("a", "/a"),
            ("../../x", "/x"),
            ("/", "/"),
            ("//proc//", "/proc"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(cleaned), "{path}");
        }
    }

    #[test]
    fn what_is_there_is_opened_and_what_is_not_is_made() {
        let scene = Scene::new();
        let a = scene.make("/a/b/c", FileKind::Directory).unwrap();
        scene.assert_is(&a, "a/b/c");
        let b = scene.make("a/b/c", FileKind::Directory).unwrap();
        scene.assert_is(&b, "a/b/c");
        let file = scene.make("/a/x/file", FileKind::File).unwrap();
        scene.assert_is(&file, "a/x/file");
        assert!(fs::metadata(scene.at("a/x/file")).unwrap().is_file());
        scene.assert_is(&scene.make("/", FileKind::Directory).unwrap(), "");
    }

    #[test]
    fn links_that_point_out_of_the_root_stay_in_it() {
        let scene = Scene::new();
        let outside = scene.directory.path().join("outside");
        symlink(&outside, scene.at("absolute")).unwrap();
        symlink("../outside", scene.at("relative")).unwrap();
        symlink("../../../../..", scene.at("up")).unwrap();
        let absolute = outside.strip_prefix("/").unwrap().join("new");
        let expected = [
            ("/absolute/new", absolute.to_str().unwrap()),
            ("/relative/new", "outside/new"),
            ("/up/new", "new"),
        ];
        for (path, made) in expected {
            let fd = scene.make(path, FileKind::Directory).unwrap();
            scene.assert_is(&fd, made);
        }
        let up = scene.make("../../outside/x", FileKind::Directory).unwrap();
        scene.assert_is(&up, "outside/x");
    }

    #[test]
    fn a_link_to_nothing_is_followed_within_the_root() {
        let scene = Scene::new();
        fs::create_dir(scene.at("var")).unwrap();
        symlink("/run", scene.at("var/run")).unwrap();
        let fd = scene.make("/var/run/secrets", FileKind::Directory).unwrap();
        scene.assert_is(&fd, "run/secrets");
        symlink("../lock", scene.at("var/lock")).unwrap();
        let fd = scene.make("/var/lock", FileKind::File).unwrap();
        scene.assert_is(&fd, "lock");
    }

    #[test]
    fn links_in_a_circle_end_in_an_error() {
        let scene = Scene::new();
        symlink("b", scene.at("a")).unwrap();
        symlink("a", scene.at("b")).unwrap();
        assert_eq!(
            scene.make("/a/x", FileKind::Directory).unwrap_err(),
            Errno::ELOOP
        );
        // Each of these dangles only once the one before it has been followed.
        for i in 0..100 {
            symlink(
                format!("/missing{}/x", i + 1),
                scene.at(&format!("missing{i}")),
            )
            .unwrap();
        }
        assert_eq!(
            scene.make("/missing0", FileKind::Directory).unwrap_err(),
            Errno::ELOOP
        );
    }

    #[test]
    fn magic_links_of_proc_are_refused() {
        let root = File::open("/").unwrap();
        let path = Path::new("/proc/self/root/etc");
        assert_eq!(open(root.as_fd(), path).unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn without_links_means_no_link_anywhere_in_the_path() {
        let scene = Scene::new();
        fs::create_dir_all(scene.at("real/dir")).unwrap();
        symlink("real", scene.at("link")).unwrap();
        let open = |path: &str| open_without_links(scene.root.as_fd(), Path::new(path));
        assert!(open("/real/dir").is_ok());
        assert_eq!(open("/link/dir").unwrap_err(), Errno::ELOOP);
        assert_eq!(open("/link").unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn a_file_on_the_way_is_an_error() {
        let scene = Scene::new();
        fs::write(scene.at("file"), "").unwrap();
        let error = scene.make("/file/below", FileKind::Directory).unwrap_err();
        assert_eq!(error, Errno::ENOTDIR);
    }
}
