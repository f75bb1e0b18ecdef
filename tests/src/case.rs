//! One run of one test.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::bundle::Bundle;
use crate::leftovers::{self, MARK};
use crate::nacre::{self, Isolation, Outcome, Running};
use crate::place;

/// One run of one test: its directory, and the mark on its processes.
#[derive(Clone)]
pub struct Case {
    id: String,
    isolation: Isolation,
    directory: PathBuf,
    mounts: Vec<String>,
}

/// The configuration file in a test's directory.
const CONFIGURATION: &str = "config.toml";

/// The value that [`Case::ignore`] unwinds with.
pub(crate) struct Ignored(pub(crate) String);

impl Case {
    pub(crate) fn new(name: &str, isolation: Isolation) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("nacre-test-{}-{number:03}", std::process::id());
        // The paths of sockets, and of Podman's directories, are limited in length.
        let name = &name[..name.len().min(16)];
        let directory = std::env::temp_dir().join(format!("{id}-{name}"));
        fs::create_dir(&directory).unwrap();
        for inner in ["root", "tmp"] {
            fs::create_dir(directory.join(inner)).unwrap();
        }
        fs::write(directory.join(CONFIGURATION), nacre::configuration()).unwrap();
        Self {
            id,
            isolation,
            directory,
            mounts: leftovers::mounts(),
        }
    }

    /// Returns an id for a container, unique on this machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns how the test's containers are isolated.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Returns whether the test's containers are in VMs that QEMU emulates.
    pub fn is_emulated(&self) -> bool {
        self.isolation == Isolation::Vm && place::is_emulated()
    }

    /// Returns whether the test's containers have cgroup version 2, and not version 1 or both.
    pub fn has_cgroup2(&self) -> bool {
        self.isolation == Isolation::Vm || Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }

    /// Returns a directory of the test's own, removed after it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Ends the test as ignored, because it can't run here.
    pub fn ignore(&self, why: &str) -> ! {
        panic::resume_unwind(Box::new(Ignored(why.into())))
    }

    /// Makes a bundle whose root is busybox.
    pub fn busybox(&self) -> Bundle {
        Bundle::busybox(&self.directory)
    }

    /// Puts this test's mark on a command.
    pub fn mark(&self, mut command: Command) -> Command {
        command
            .env(MARK, &self.id)
            .env("TMPDIR", self.directory.join("tmp"));
        command
    }

    /// Returns the state directory that [`Case::nacre`] gives to `nacre`.
    pub fn state(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Returns the log file that [`Case::nacre`] gives to `nacre`.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Returns the configuration file that [`Case::nacre`] gives to `nacre`.
    pub fn configuration(&self) -> PathBuf {
        self.directory.join(CONFIGURATION)
    }

    /// Returns `nacre` with the state directory, log file and configuration of this test, and no
    /// command yet.
    pub fn nacre(&self) -> Command {
        self.nacre_with(&self.configuration())
    }

    /// Like [`Case::nacre`], with another configuration.
    pub fn nacre_with(&self, configuration: &Path) -> Command {
        let mut command = self.mark(Command::new(nacre::runtime()));
        command
            .arg("--root")
            .arg(self.state())
            .arg("--log")
            .arg(self.log())
            .args(["--log-format", "json"]);
        if !nacre::is_reference() {
            command.arg("--config").arg(configuration);
            if let Isolation::Process = self.isolation {
                command.arg("--isolation=process");
            }
            if place::is_emulated() {
                command.arg("--hypervisor=qemu");
            }
        }
        command
    }

    /// Runs a bundle's container and waits for its end, with nothing on its standard input.
    pub fn run(&self, bundle: &Bundle) -> Outcome {
        self.start(bundle).finish()
    }

    /// Starts a bundle's container, with pipes for its streams.
    pub fn start(&self, bundle: &Bundle) -> Running {
        let mut command = self.nacre();
        command
            .args(["run", "--bundle"])
            .arg(bundle.write())
            .arg(&self.id);
        self.spawn(command)
    }

    /// Starts a command, with pipes for its streams.
    pub fn spawn(&self, command: Command) -> Running {
        Running::spawn(command, &self.log())
    }

    /// Kills every process of this test and returns what they were.
    pub(crate) fn kill_all(&self) -> Vec<String> {
        leftovers::kill(&self.id)
    }

    /// Fails if anything of the container is left.
    ///
    /// # Panics
    ///
    /// With `what`, and what is left.
    #[track_caller]
    pub fn expect_nothing(&self, what: &str) {
        let processes = leftovers::settled_processes(&self.id, Duration::from_secs(30));
        assert!(processes.is_empty(), "{what}: {processes:?}");
        let files = leftovers::files(&self.state());
        assert!(files.is_empty(), "{what}: {files:?}");
        let cgroups = leftovers::cgroups_named(&self.id);
        assert!(cgroups.is_empty(), "{what}: {cgroups:?}");
        let mut mounts = leftovers::mounts();
        mounts.retain(|mount| mount.contains(&self.id));
        assert!(mounts.is_empty(), "{what}: {mounts:?}");
    }

    /// Returns what the test left behind, one line each.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = self.settled_processes();
        left.extend(leftovers::files(&self.state()));
        left.extend(leftovers::files(&self.directory.join("tmp")));
        let cgroups = leftovers::cgroups_named(&self.id);
        left.extend(
            cgroups
                .iter()
                .map(|path| format!("cgroup: {}", path.display())),
        );
        left.extend(
            leftovers::mounts()
                .into_iter()
                .filter(|mount| !self.mounts.contains(mount) && !self.is_anothers(mount))
                .map(|mount| format!("mount: {mount}")),
        );
        left
    }

    /// Returns the processes that are still there after a moment.
    fn settled_processes(&self) -> Vec<String> {
        let left = leftovers::settled_processes(&self.id, Duration::from_secs(2));
        left.into_iter().map(|(_, line)| line).collect()
    }

    /// Returns whether the mount belongs to a test that runs at the same time.
    fn is_anothers(&self, mount: &str) -> bool {
        let ours = self.id.rsplit_once('-').map_or("", |(run, _)| run);
        mount.contains(ours) && !mount.contains(&self.id)
    }

    /// Removes everything that belongs to this test, wanted or left behind. What can't be removed
    /// is found by the run's last check.
    pub(crate) fn remove(&self) {
        if !self.kill_all().is_empty() {
            self.settled_processes();
        }
        leftovers::remove_cgroups_named(&self.id);
        leftovers::unmount(&self.directory);
        let _ = fs::remove_dir_all(&self.directory);
    }
}
