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
