//! The container of a test between commands: made, started, inspected, waited for.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::case::Case;
use crate::nacre::Outcome;

/// How long a container may take to get into an expected state, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Case {
    /// Runs a command of the program under test and waits for its end.
    pub fn command(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.nacre();
        command.args(arguments);
        self.spawn(command).finish()
    }

    /// Runs a command that leaves a container behind. The streams don't end with it: what the
    /// container writes is in [`Case::output`]. Returns the command's exit status; what the command
    /// itself writes to standard error is in the output too.
    pub fn leave(&self, mut command: Command) -> i32 {
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.directory().join("output"))
            .unwrap();
        let status = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status()
            .unwrap();
        status
            .code()
            .unwrap_or_else(|| panic!("{command:?}: {status}"))
    }

    /// Returns what the containers that were left behind have written.
    pub fn output(&self) -> String {
        fs::read_to_string(self.directory().join("output")).unwrap_or_default()
    }

    /// Runs `command` for a bundle, with this test's container and a pid file, and fails unless it
    /// succeeds. Returns the pid.
    #[track_caller]
    fn left_by(&self, words: &[&str], bundle: &Bundle) -> Pid {
        let file = self.directory().join("pid");
        let mut command = self.nacre();
        command
            .args(words)
            .arg("--bundle")
            .arg(bundle.write())
            .arg("--pid-file")
            .arg(&file)
            .arg(self.id());
        assert_eq!(self.leave(command), 0, "{words:?}: {}", self.output());
        let text = fs::read_to_string(&file).unwrap();
        Pid::from_raw(text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}")))
    }

    /// Runs `nacre create`. Returns the container's pid.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> Pid {
        self.left_by(&["create"], bundle)
    }

    /// Runs `nacre run --detach`. Returns the container's pid.
    #[track_caller]
    pub fn detach(&self, bundle: &Bundle) -> Pid {
        self.left_by(&["run", "--detach"], bundle)
    }

    /// Starts a container that does nothing until it is killed.
    #[track_caller]
    pub fn idle(&self) -> Pid {
        self.detach(&self.busybox().args(["sleep", "1000"]))
    }

    /// Returns what `nacre state` prints.
    #[track_caller]
    pub fn inspect(&self) -> Value {
        serde_json::from_str(&self.command(&["state", self.id()]).ok()).unwrap()
    }

    /// Returns the container's status from `nacre state`.
    #[track_caller]
    pub fn status(&self) -> String {
        self.inspect()["status"].as_str().unwrap().to_owned()
    }

    /// Waits until the container has this status.
    #[track_caller]
    pub fn wait_for_status(&self, status: &str) {
        self.wait_for(&format!("status {status}"), || self.status() == status);
    }

    /// Waits until the output of what was left behind contains this.
    #[track_caller]
    pub fn wait_for_output(&self, text: &str) {
        self.wait_for(&format!("output {text:?}"), || self.output().contains(text));
    }

    /// Waits until a condition holds.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so() {
            let output = self.output();
            assert!(Instant::now() < end, "no {what}; output:\n{output}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the log of a paused container, which writes to it every 20 ms, stays the same
    /// for so long that a running one would have added to it many times: at first its last lines
    /// may be on their way. Returns the log.
    #[track_caller]
    pub fn wait_until_still(&self, log: impl Fn() -> String) -> String {
        let mut before = log();
        self.wait_for("standstill", || {
            thread::sleep(Duration::from_millis(500));
            let after = log();
            let is_still = after == before;
            before = after;
            is_still
        });
        before
    }

    /// Runs `nacre delete --force`.
    #[track_caller]
    pub fn remove_container(&self) {
        assert_eq!(self.command(&["delete", "--force", self.id()]).ok(), "");
    }
}
