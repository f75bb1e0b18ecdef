//! A bundle: a directory with `config.json` and the root file system (OCI runtime spec,
//! bundle.md).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nacre_agent::{container::config, protocol::MAX_MESSAGE};
use oci_spec::runtime::Spec;

/// A bundle whose `config.json` has nothing that must be refused.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Its directory, absolute and without symbolic links.
    pub(crate) directory: PathBuf,
    pub(crate) spec: Spec,
    /// What `spec` was read from.
    pub(crate) json: Vec<u8>,
    /// The parts of it that are left out, as lines for the log.
    pub(crate) left_out: Vec<String>,
}

/// Why a bundle can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("bundle {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a file")]
    NotAFile { path: PathBuf },
    #[error("{path} is longer than {MAX_MESSAGE} bytes")]
    TooLong { path: PathBuf },
    #[error("{path}")]
    Config {
        path: PathBuf,
        #[source]
        source: config::ConfigError,
    },
}

impl Bundle {
    /// Reads and checks the bundle's `config.json`.
    pub(crate) fn load(directory: &Path) -> Result<Self, BundleError> {
        let directory = fs::canonicalize(directory).map_err(|source| BundleError::Directory {
            path: directory.into(),
            source,
        })?;
        let path = directory.join("config.json");
        let json = read_config(&path)?;
        let read = config::read(&json);
        let (spec, left_out) = read.map_err(|source| BundleError::Config { path, source })?;
        Ok(Self {
            directory,
            spec,
            json,
            left_out,
        })
    }
}

/// Reads a `config.json`, which is a regular file.
fn read_config(path: &Path) -> Result<Vec<u8>, BundleError> {
    // Otherwise, opening a FIFO would wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed(path))?;
    let metadata = file.metadata().map_err(failed(path))?;
    if !metadata.is_file() {
        return Err(BundleError::NotAFile { path: path.into() });
    }
    read_to_end(path, file, metadata.len())
}

/// Reads a file of any kind, no longer than a `config.json` may be.
pub(crate) fn read_json(path: &Path) -> Result<Vec<u8>, BundleError> {
    let file = File::open(path).map_err(failed(path))?;
    read_to_end(path, file, 0)
}

/// Reads a file that is probably `likely` bytes long.
fn read_to_end(path: &Path, file: File, likely: u64) -> Result<Vec<u8>, BundleError> {
    // With room for one byte more, the read that gets everything also sees the end of the file.
    let length = likely.min(MAX_MESSAGE as u64) as usize;
    let mut json = Vec::with_capacity(length + 1);
    file.take(MAX_MESSAGE as u64 + 1)
        .read_to_end(&mut json)
        .map_err(failed(path))?;
    if json.len() > MAX_MESSAGE {
        return Err(BundleError::TooLong { path: path.into() });
    }
    Ok(json)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> BundleError {
    move |source| BundleError::Read {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_config_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        assert!(matches!(
            Bundle::load(directory.path()),
            Err(BundleError::Read { .. })
        ));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(
            Bundle::load(directory.path()),
            Err(BundleError::NotAFile { .. })
        ));
        fs::remove_file(&path).unwrap();
        fs::File::create(&path)
            .unwrap()
            .set_len(MAX_MESSAGE as u64 + 1)
            .unwrap();
        assert!(matches!(
            Bundle::load(directory.path()),
            Err(BundleError::TooLong { .. })
        ));
        assert!(matches!(
            Bundle::load(&directory.path().join("none")),
            Err(BundleError::Directory { .. })
        ));
    }
}
