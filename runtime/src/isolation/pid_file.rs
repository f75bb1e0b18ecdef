//! `--pid-file`: where callers learn which process stands for a container.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Why a pid file wasn't written.
#[derive(Debug, thiserror::Error)]
#[error("can't write the pid file {path}")]
pub(crate) struct PidFileError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes a pid, without a line's end, so that whoever reads the file finds all of it or no
/// file.
pub(super) fn write(path: &Path, pid: impl ToString) -> Result<(), PidFileError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .map_err(|source| {
            let _ = fs::remove_file(&new);
            PidFileError {
                path: path.into(),
                source,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "a longer text that was there").unwrap();
        write(&path, 42).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"42");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_left_of_one_that_cant_be_written() {
        let directory = tempfile::tempdir().unwrap();
        // A directory can't be replaced by a file.
        let path = directory.path().join("pid");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, 42).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write(&directory.path().join("no/pid"), 42).is_err());
    }
}
