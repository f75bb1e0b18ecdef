//! Runs a QEMU only for its answer to a question.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(5);

/// How often to check whether it has ended.
const PAUSE: Duration = Duration::from_millis(1);

/// How much of its output is read: as much as fits into a pipe, so that it needn't be read while
/// the program runs.
const MOST: u64 = 64 << 10;

/// A QEMU that was asked something and hasn't answered yet. Dropping this kills it.
pub(super) struct Question {
    child: Child,
    deadline: Instant,
}

impl Question {
    /// Runs `path --version`.
    pub(super) fn version(path: &Path) -> Result<Question, String> {
        Self::ask(Command::new(path).arg("--version"))
    }

    /// Has the dynamic loader of `path` list what it loads (ld.so(8)) instead of running the
    /// program; a program without such a loader reports its version.
    pub(super) fn libraries(path: &Path) -> Result<Question, String> {
        let mut command = Command::new(path);
        command.env_clear().env("LD_TRACE_LOADED_OBJECTS", "1");
        Self::ask(command.arg("--version"))
    }

    fn ask(command: &mut Command) -> Result<Question, String> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("it can't be run: {e}"))?;
        Ok(Question {
            child,
            deadline: Instant::now() + LIMIT,
        })
    }

    /// Waits for its output.
    pub(super) fn answer(mut self) -> Result<String, String> {
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < self.deadline => std::thread::sleep(PAUSE),
                Ok(Some(status)) => break status,
                Ok(None) => return Err(format!("it didn't end within {} s", LIMIT.as_secs())),
                Err(error) => return Err(format!("it can't be waited for: {error}")),
            }
        };
        if !status.success() {
            return Err(format!("it ends with {status}"));
        }
        let mut said = Vec::new();
        if let Some(output) = self.child.stdout.take() {
            let _ = output.take(MOST).read_to_end(&mut said);
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // A child that has been waited for isn't killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
