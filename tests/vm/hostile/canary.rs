//! What must not change: files of the host that the guest has no right to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nacre_tests::{Case, leftovers};

/// A directory beside the share, and what all in it was like.
pub(super) struct Canary {
    pub(super) directory: PathBuf,
    pub(super) before: BTreeMap<PathBuf, String>,
}

impl Canary {
    pub(super) fn make(case: &Case) -> Canary {
        let directory = case.directory().join("canary");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "untouched\n").unwrap();
        fs::write(directory.join("secret"), "untouched too\n").unwrap();
        fs::set_permissions(directory.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::create_dir(directory.join("empty")).unwrap();
        symlink("file", directory.join("link")).unwrap();
        let before = described(&directory);
        Canary { directory, before }
    }
}

/// Describes a directory and all below it: contents, owners, modes and times.
pub(super) fn described(directory: &Path) -> BTreeMap<PathBuf, String> {
    let describe = |path: &Path| {
        let data = fs::symlink_metadata(path).unwrap();
        let content = if data.is_file() {
            fs::read_to_string(path).ok()
        } else {
            None
        };
        format!(
            "mode {:o}, owner {}:{}, {} links, device {:x}, {} bytes, modified {}.{}, changed {}.{}: {content:?}",
            data.mode(),
            data.uid(),
            data.gid(),
            data.nlink(),
            data.rdev(),
            data.size(),
            data.mtime(),
            data.mtime_nsec(),
            data.ctime(),
            data.ctime_nsec(),
        )
    };
    let mut all = BTreeMap::from([(directory.to_owned(), describe(directory))]);
    all.extend(leftovers::walk(directory).into_iter().map(|path| {
        let text = describe(&path);
        (path, text)
    }));
    all
}
