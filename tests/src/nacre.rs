//! The program under test, and one run of it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Returns the path of a binary that cargo built: in `NACRE_BIN_DIR`, or beside the tests.
pub fn binary(name: &str) -> PathBuf {
    let directory = match std::env::var_os("NACRE_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        // Tests are in target/<triple>/<profile>/deps.
        None => {
            let test = std::env::current_exe().unwrap();
            test.ancestors().nth(2).unwrap().to_owned()
        }
    };
    directory.join(name)
}

/// How a test's containers are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A microVM.
    Vm,
    /// The host kernel's namespaces and cgroups.
    Process,
}

/// Returns the program under test: `nacre`, or the other runtime that `NACRE_TESTS_RUNTIME` names,
/// which shows whether the tests of process mode expect what callers are used to.
pub fn runtime() -> PathBuf {
    std::env::var_os("NACRE_TESTS_RUNTIME").map_or_else(|| binary("nacre"), PathBuf::from)
}

/// Returns whether the program under test isn't `nacre`.
pub fn is_reference() -> bool {
    std::env::var_os("NACRE_TESTS_RUNTIME").is_some()
}

/// Checks that what is tested has been built.
///
/// # Errors
///
/// A line that says what to do.
pub fn check_built() -> Result<(), String> {
    match ["nacre", "nacre-agent"]
        .map(binary)
        .iter()
        .find(|path| !path.exists())
    {
        None => Ok(()),
        Some(path) => Err(format!(
            "{} isn't there; run: cargo build -p nacre -p nacre-agent",
            path.display()
        )),
    }
}

/// Returns the path of the guest kernel: `NACRE_KERNEL`, which [`crate::place`] sets.
pub fn kernel() -> PathBuf {
    PathBuf::from(std::env::var_os("NACRE_KERNEL").expect("NACRE_KERNEL is set"))
}

/// How many seconds a guest has to boot: the testbed is emulated, perhaps on a busy machine.
pub(crate) const BOOT_TIMEOUT: u32 = 120;

/// Returns a configuration file's text, which names the kernel and agent under test.
pub fn configuration() -> String {
    let kernel = std::env::var("NACRE_KERNEL").unwrap_or_else(|_| "/nonexistent/vmlinux".into());
    let agent = binary("nacre-agent");
    // In the testbed /var/tmp is an overlay, which has no `O_TMPFILE`.
    let disks = std::env::temp_dir();
    format!(
        "[vm]\nkernel = \"{kernel}\"\nagent = {agent:?}\nboot-timeout = {BOOT_TIMEOUT}\n\
         disk-directory = {disks:?}\n"
    )
}

/// A running process, with pipes for its streams.
pub struct Running {
    child: Child,
    log: PathBuf,
    /// The length of the log before it was started.
    logged: usize,
    /// Whether its standard input stays open until it has ended.
    is_attended: bool,
    /// Its standard input, until it is dropped or taken.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, if [`Running::finish`] is not to collect it.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, if [`Running::finish`] is not to collect it.
    pub stderr: Option<ChildStderr>,
}

impl Running {
    pub(crate) fn spawn(mut command: Command, log: &Path) -> Self {
        let logged = fs::read(log).map_or(0, |log| log.len());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
        Self {
            is_attended: false,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
            log: log.to_owned(),
            logged,
        }
    }

    /// Returns its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Reads its standard output up to the given line, which a workload prints when it is ready.
    /// Returns what came before.
    #[track_caller]
    pub fn wait_for_line(&mut self, line: &str) -> String {
        let stdout = self.stdout.as_mut().unwrap();
        let mut text = Vec::new();
        let mut byte = [0];
        let end = format!("{line}\n");
        while !text.ends_with(end.as_bytes()) {
            if stdout.read(&mut byte).unwrap() == 0 {
                let mut error = String::new();
                if let Some(mut stderr) = self.stderr.take() {
                    let _ = stderr.read_to_string(&mut error);
                }
                let got = String::from_utf8_lossy(&text);
                panic!("no line {line:?} in standard output:\n{got}\nstandard error:\n{error}");
            }
            text.push(byte[0]);
        }
        text.truncate(text.len() - end.len());
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Reads the next line of its standard output, without the line's end.
    #[track_caller]
    pub fn next_line(&mut self) -> String {
        let stdout = self.stdout.as_mut().unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    /// Has [`Running::finish`] leave its standard input open until its end.
    pub(crate) fn attended(mut self) -> Self {
        self.is_attended = true;
        self
    }

    /// Closes its standard input, unless it is at a terminal, and waits for its end.
    pub fn finish(mut self) -> Outcome {
        if !self.is_attended {
            drop(self.stdin.take());
        }
        let stdout = collect(self.stdout.take());
        let stderr = collect(self.stderr.take());
        let status = self.child.wait().unwrap();
        Outcome {
            status,
            stdout: stdout.join().unwrap(),
            stderr: String::from_utf8_lossy(&stderr.join().unwrap()).into_owned(),
            log: fs::read_to_string(&self.log)
                .map_or_else(|_| String::new(), |log| log[self.logged..].to_owned()),
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Returns whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended, for `limit` at most. Returns whether it has.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

fn collect(from: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            from.read_to_end(&mut bytes).unwrap();
        }
        bytes
    })
}

/// How a run ended and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
    /// What was written to the log file during the run.
    pub log: String,
}

impl Outcome {
    /// Returns its exit status; `None` if a signal ended it.
    pub fn status(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns the signal that ended it.
    pub fn killed_by(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Returns its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails unless it exited with this status. Returns its standard output as text.
    #[track_caller]
    pub fn expect(&self, status: i32) -> String {
        assert_eq!(
            self.status.code(),
            Some(status),
            "{}\nstandard output:\n{}\nstandard error:\n{}",
            self.status,
            self.text(),
            self.stderr
        );
        self.text()
    }

    /// Fails unless it exited with 0 and wrote nothing to standard error. Returns its
    /// standard output as text.
    #[track_caller]
    pub fn ok(&self) -> String {
        let text = self.expect(0);
        assert_eq!(self.stderr, "", "standard error; standard output:\n{text}");
        text
    }

    /// Fails unless it was refused as every error must be: with this exit status, nothing on
    /// standard output, one line on standard error, and the same line as the only error in the log,
    /// in runc's JSON form. Returns the message.
    #[track_caller]
    pub fn refused(&self, status: i32) -> String {
        if is_reference() {
            return self.reference_refused();
        }
        assert_eq!(self.expect(status), "", "standard error:\n{}", self.stderr);
        let message = self
            .stderr
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix("nacre: "))
            .unwrap_or_else(|| panic!("not one line of nacre's: {:?}", self.stderr));
        assert!(!message.contains('\n'), "several lines:\n{}", self.stderr);
        let errors: Vec<Value> = self
            .log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .filter(|entry: &Value| entry["level"] == "error")
            .collect();
        assert_eq!(errors.len(), 1, "errors in the log:\n{}", self.log);
        assert_eq!(errors[0]["msg"], message);
        let time = errors[0]["time"].as_str().unwrap_or_default();
        assert!(is_rfc3339(time), "time in the log: {time:?}");
        message.to_owned()
    }
}

impl Outcome {
    /// Fails unless it ended with some error and printed a message.
    #[track_caller]
    pub fn refused_somehow(&self) {
        let failed = self.status.code().is_some_and(|status| status != 0);
        assert!(failed && !self.stderr.is_empty(), "{self:?}");
    }

    /// Returns the message of another runtime's error, of which nothing else is checked.
    #[track_caller]
    fn reference_refused(&self) -> String {
        assert_ne!(self.status.code(), Some(0), "{self:?}");
        self.stderr.clone()
    }
}

/// Returns whether a time looks like `2006-01-02T15:04:05Z`, with or without a fraction or an
/// offset.
fn is_rfc3339(time: &str) -> bool {
    let shape: String = time
        .chars()
        .take(19)
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00:00:00" && time.len() > 19
}
