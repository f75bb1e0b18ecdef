//! What tests of programs that call a runtime need: a binary whose name selects the isolation, and
//! daemons that end with the test.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::case::Case;
use crate::console::in_shell;
use crate::nacre::{self, Isolation, Outcome};
use crate::{leftovers, place};

/// How long a daemon may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

impl Case {
    /// Returns the path of the program under test by a name that selects the isolation, for callers
    /// that can name only a binary.
    pub fn binary(&self) -> PathBuf {
        if nacre::is_reference() {
            return nacre::runtime();
        }
        match self.isolation() {
            Isolation::Vm => self.configured("nacre-vm"),
            Isolation::Process => self.named("nacre-process"),
        }
    }

    /// Makes a link with this name to the program under test.
    fn named(&self, name: &str) -> PathBuf {
        let link = self.directory().join(name);
        if !link.exists() {
            symlink(nacre::runtime(), &link).unwrap();
        }
        link
    }

    /// Does the same for VMs, whose kernel and agent aren't installed where nacre looks for them: a
    /// script in between names the configuration.
    fn configured(&self, name: &str) -> PathBuf {
        let directory = self.directory().join("bin");
        let script = directory.join(name);
        if !script.exists() {
            fs::create_dir_all(&directory).unwrap();
            let mut command = Command::new(self.named(name));
            command.arg("--config").arg(self.configuration());
            if place::is_emulated() {
                command.arg("--hypervisor=qemu");
            }
            let text = format!("#!/bin/sh\nexec {} \"$@\"\n", in_shell(&command));
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        script
    }

    /// Ends the test unless a program is installed.
    pub fn needs(&self, program: &str, package: &str) {
        if which(program).is_none() {
            self.ignore(&format!("no {program} here (Debian's {package} has it)"));
        }
    }
}

/// Returns where a program is.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.exists())
}

/// A daemon, which is ended when this is dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon whose output goes to the file `daemon.log` in a directory.
    pub fn start(mut command: Command, directory: &Path) -> Self {
        let log = directory.join("daemon.log");
        let file = fs::File::create(&log).unwrap();
        let child = command
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
        Self { child, log }
    }

    /// Waits until the daemon answers a question with success.
    ///
    /// # Errors
    ///
    /// Says why it doesn't, with the end of its log.
    pub fn wait_until(&mut self, mut asked: impl FnMut() -> Outcome) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().unwrap();
            let answer = asked();
            if answer.status() == Some(0) {
                return Ok(());
            }
            if ended.is_some() || Instant::now() > end {
                return Err(format!(
                    "{}\n{}",
                    answer.stderr.trim_end(),
                    self.last_words()
                ));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the end of the daemon's log.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        // The daemon may have ended by itself.
        let _ = kill(pid, Signal::SIGTERM);
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A cgroup that a client makes for all its containers and leaves behind. If something is in it
/// when this is dropped, it stays, for the test's last check to find.
pub struct ParentCgroup(String);

impl ParentCgroup {
    /// Names the parent cgroup of a test.
    pub fn of(case: &Case) -> Self {
        Self(format!("/{}", case.id()))
    }

    /// Returns its path from the cgroups' root.
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for ParentCgroup {
    fn drop(&mut self) {
        let id = self.0.trim_start_matches('/');
        leftovers::settled_processes(id, PATIENCE);
        // A process that ends has no command line for a moment before it leaves its cgroup.
        let end = Instant::now() + PATIENCE;
        loop {
            for name in [format!("{}/conmon", self.0), self.0.clone()] {
                leftovers::remove_empty_cgroups(&name);
            }
            if leftovers::cgroups_named(id).is_empty() || Instant::now() > end {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
