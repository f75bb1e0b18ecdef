//! A test's container between commands: made, started, looked at, waited for.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::case::Case;
use crate::nacre::Outcome;

/// How long a container may take to get where it is expected, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

impl Case {
    /// Runs a command of the program under test and waits for its end.
    pub fn command(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.nacre();
        command.args(arguments);
        self.spawn(command).finish()
    }

    /// Gives a command that leaves a container behind streams that don't end with it: what the
    /// container writes is in [`Case::output`]. Returns how the command ended, with what it
    /// wrote itself to standard error among the output.
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

    /// What the containers that were left behind have written.
    pub fn output(&self) -> String {
        fs::read_to_string(self.directory().join("output")).unwrap_or_default()
    }

    /// Carries `command` out for a bundle, this test's container and a pid file, and fails
    /// unless it ends well. Returns the pid.
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

    /// `nacre create`. Returns the container's pid.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> Pid {
        self.left_by(&["create"], bundle)
    }

    /// `nacre run --detach`. Returns the container's pid.
    #[track_caller]
    pub fn detach(&self, bundle: &Bundle) -> Pid {
        self.left_by(&["run", "--detach"], bundle)
    }

    /// A container that does nothing until it is killed, running.
    #[track_caller]
    pub fn idle(&self) -> Pid {
        self.detach(&self.busybox().args(["sleep", "1000"]))
    }

    /// What `nacre state` says.
    #[track_caller]
    pub fn inspect(&self) -> Value {
        serde_json::from_str(&self.command(&["state", self.id()]).ok()).unwrap()
    }

    /// Its status, as `nacre state` says.
    #[track_caller]
    pub fn status(&self) -> String {
        self.inspect()["status"].as_str().unwrap().to_owned()
    }

    /// Waits until the container's state says so.
    #[track_caller]
    pub fn wait_for_status(&self, status: &str) {
        self.wait_for(&format!("status {status}"), || self.status() == status);
    }

    /// Waits until the output of what was left behind has this in it.
    #[track_caller]
    pub fn wait_for_output(&self, text: &str) {
        self.wait_for(&format!("output {text:?}"), || self.output().contains(text));
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so() {
            let output = self.output();
            assert!(Instant::now() < end, "no {what}; output:\n{output}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// `nacre delete --force`.
    #[track_caller]
    pub fn remove_container(&self) {
        assert_eq!(self.command(&["delete", "--force", self.id()]).ok(), "");
    }
}
