//! Calls CRIU, and reports what it said if it failed.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{cli, isolation::process::criu_error::CriuError};

/// How many lines of its log an error quotes.
const QUOTED: usize = 4;

/// Where CRIU's images are by default.
const IMAGES: &str = "checkpoint";

/// Which of CRIU's log files it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum LogFile {
    Dump,
    Restore,
}

impl LogFile {
    fn name(self) -> &'static str {
        match self {
            Self::Dump => "dump.log",
            Self::Restore => "restore.log",
        }
    }
}

/// CRIU, about to be called.
#[derive(Debug)]
pub(super) struct Criu {
    program: PathBuf,
    command: Command,
    images: PathBuf,
    work: PathBuf,
    log: LogFile,
}

impl Criu {
    /// Prepares a call with the flags that all of its commands have.
    pub(super) fn new(
        program: &Path,
        command: &str,
        flags: &cli::Criu,
        log: LogFile,
    ) -> Result<Self, CriuError> {
        let images = flags.image_path.clone().unwrap_or_else(|| IMAGES.into());
        let absolute = |path: &Path| {
            let directory = env::current_dir().map(|current| current.join(path));
            directory.map_err(|source| CriuError::Images {
                path: path.into(),
                source,
            })
        };
        let images = absolute(&images)?;
        let work = match &flags.work_path {
            Some(path) => absolute(path)?,
            None => images.clone(),
        };
        let mut criu = Self {
            program: program.into(),
            command: Command::new(program),
            images,
            work,
            log,
        };
        criu.arg(command)
            .arg("-v4")
            .arg("--log-file")
            .arg(log.name());
        let (images, work) = (criu.images.clone(), criu.work.clone());
        criu.arg("--images-dir").arg(images);
        criu.arg("--work-dir").arg(work);
        // Whatever is mounted in the container from outside is taken from the same place again.
        criu.arg("--external").arg("mnt[]:ms");
        for (flag, given) in [
            ("--tcp-established", flags.tcp_established),
            ("--ext-unix-sk", flags.ext_unix_sk),
            ("--shell-job", flags.shell_job),
            ("--file-locks", flags.file_locks),
            ("--auto-dedup", flags.auto_dedup),
            ("--lazy-pages", flags.lazy_pages),
        ] {
            if given {
                criu.arg(flag);
            }
        }
        for _ in &flags.empty_ns {
            criu.arg("--empty-ns").arg("net");
        }
        criu.arg(match flags.manage_cgroups_mode {
            None | Some(cli::ManageCgroups::Soft) => "--manage-cgroups=soft",
            Some(cli::ManageCgroups::Full) => "--manage-cgroups=full",
            Some(cli::ManageCgroups::Strict) => "--manage-cgroups=strict",
            Some(cli::ManageCgroups::Ignore) => "--manage-cgroups=ignore",
        });
        Ok(criu)
    }

    pub(super) fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Returns the directory of the image files.
    pub(super) fn images(&self) -> &Path {
        &self.images
    }

    /// Returns the directory of working files.
    pub(super) fn work(&self) -> &Path {
        &self.work
    }

    pub(super) fn no_directory(&self, source: io::Error) -> CriuError {
        CriuError::Images {
            path: self.images.clone(),
            source,
        }
    }

    /// Has the images build on those of `parent`, a path relative to theirs.
    pub(super) fn build_on(&mut self, parent: &Path) -> Result<(), CriuError> {
        let wrong = |problem| CriuError::Parent {
            path: parent.into(),
            problem,
        };
        if parent.is_absolute() {
            return Err(wrong("must be relative to --image-path"));
        }
        if !self.images.join(parent).is_dir() {
            return Err(wrong("isn't a directory that is there"));
        }
        self.arg("--track-mem").arg("--prev-images-dir").arg(parent);
        Ok(())
    }

    /// Calls CRIU, with this process's standard streams.
    pub(super) fn run(mut self) -> Result<(), CriuError> {
        fs::create_dir_all(&self.work).map_err(|source| CriuError::Work {
            path: self.work.clone(),
            source,
        })?;
        self.command.stderr(Stdio::inherit());
        let status = self.command.status().map_err(|source| CriuError::Missing {
            program: self.program.clone(),
            source,
        })?;
        if status.success() {
            return Ok(());
        }
        let log = self.work.join(self.log.name());
        let said = fs::read(&log).map(|log| errors(&String::from_utf8_lossy(&log)));
        Err(CriuError::Failed {
            status,
            said: said.unwrap_or_else(|_| "it wrote no log".into()),
            log,
        })
    }
}

/// Returns the last errors of a log.
fn errors(log: &str) -> String {
    let errors: Vec<&str> = log
        .lines()
        .filter_map(|line| line.find("Error (").and_then(|at| line.get(at..)))
        .collect();
    let from = errors.len().saturating_sub(QUOTED);
    match errors.get(from..) {
        Some([]) | None => "its log has no error".into(),
        Some(last) => last.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_what_criu_said() {
        let log = "(00.1) Dumping\n(00.2) Error (criu/a.c:1): no a\n(00.3) x\n\
                   (00.4) Error (criu/b.c:2): no b\n";
        assert_eq!(
            errors(log),
            "Error (criu/a.c:1): no a; Error (criu/b.c:2): no b"
        );
        assert_eq!(errors(""), "its log has no error");
    }
}
