//! A host that systemd manages: this one, or namespaces of the test's own with a systemd that has
//! nothing but a bus and the units it is asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::case::Case;
use crate::leftovers;
use crate::nacre::{Outcome, Running};

/// How long systemd may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const PROGRAM: &str = "/lib/systemd/systemd";

/// The target that systemd is to bring up.
pub(crate) const TARGET: &str = "nacre-test.target";

/// Units that systemd can't do without.
const UNITS: [(&str, &str); 5] = [
    (TARGET, "Requires=dbus.service\n"),
    ("sysinit.target", ""),
    ("basic.target", ""),
    ("shutdown.target", ""),
    ("exit.target", ""),
];

/// Makes a directory with the units of a systemd that has only a bus: `system`, or the `session` of
/// a user.
pub(crate) fn write_units(directory: &Path, bus: &str) {
    let socket = match bus {
        "system" => "%t/dbus/system_bus_socket",
        _ => "%t/bus",
    };
    let socket = format!("[Socket]\nListenStream={socket}\n");
    let service = format!(
        "Requires=dbus.socket\n[Service]\nType=notify\n\
         ExecStart=/usr/bin/dbus-daemon --{bus} --address=systemd: --nofork --nopidfile\n"
    );
    fs::create_dir(directory).unwrap();
    let of_bus = [("dbus.socket", &*socket), ("dbus.service", &*service)];
    for (name, text) in UNITS.into_iter().chain(of_bus) {
        let text = format!("[Unit]\nDefaultDependencies=no\n{text}");
        fs::write(directory.join(name), text).unwrap();
    }
}

/// A systemd, which is ended with all that it manages when this is dropped.
pub struct Systemd<'a> {
    case: &'a Case,
    /// The test's own systemd, unless it is this host's.
    own: Option<Own>,
}

struct Own {
    unshare: Running,
    /// The pid of systemd as seen from here.
    pid: String,
}

impl<'a> Systemd<'a> {
    /// Finds or starts a systemd. Ends the test if that isn't possible.
    pub fn start(case: &'a Case) -> Self {
        if Path::new("/run/systemd/system").exists() {
            return Self { case, own: None };
        }
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            case.ignore("no systemd and no cgroup version 2 here");
        }
        case.needs("nsenter", "util-linux");
        case.needs("systemd-run", "systemd");
        case.needs("dbus-daemon", "dbus-daemon");
        let units = case.directory().join("units");
        write_units(&units, "system");
        let cgroup = Path::new("/sys/fs/cgroup").join(case.id());
        fs::create_dir(&cgroup).unwrap();
        let script = format!(
            "echo 0 >{}/cgroup.procs; exec unshare --cgroup --mount sh -ec '
             mount -t proc proc /proc
             umount -l /sys/fs/cgroup
             mount -t cgroup2 cgroup2 /sys/fs/cgroup
             mount -t tmpfs tmpfs /run
             export container=nacre-test SYSTEMD_GENERATOR_PATH=/nonexistent
             export SYSTEMD_UNIT_PATH={}:/run/systemd/transient
             exec {PROGRAM} --system --unit={TARGET} --log-target=null --show-status=no'",
            cgroup.display(),
            units.display(),
        );
        let mut unshare = case.mark(Command::new("unshare"));
        unshare.args(["--pid", "--fork", "--kill-child", "sh", "-c", &script]);
        let unshare = case.spawn(unshare);
        let pid = unshare.pid();
        let mut child = String::new();
        case.wait_for("a child of unshare", || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            child = children.unwrap_or_default().trim().to_owned();
            !child.is_empty()
        });
        let own = Some(Own {
            unshare,
            pid: child,
        });
        let systemd = Self { case, own };
        let end = Instant::now() + PATIENCE;
        loop {
            let asked = systemd.run("busctl", &["status", "org.freedesktop.systemd1"]);
            if asked.status() == Some(0) {
                return systemd;
            }
            assert!(Instant::now() < end, "no systemd on its bus: {asked:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Returns a program that runs where systemd is, outside its units.
    fn program(&self, name: &str) -> Command {
        match &self.own {
            None => Command::new(name),
            Some(own) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--target={}", own.pid))
                    .args(["--mount", "--pid", "--cgroup"])
                    .arg(name);
                command
            }
        }
    }

    /// Runs such a program.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Outcome {
        let mut command = self.case.mark(self.program(name));
        command.args(arguments);
        self.case.spawn(command).finish()
    }

    /// Returns a command that runs where systemd is, in no unit.
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = self.program(command.get_program().to_str().unwrap());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            inside.env(name, value.unwrap_or_default());
        }
        inside
    }

    /// Returns a property of a unit from `systemctl show`.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let shown = self.run("systemctl", &["show", "--value", "--property", name, unit]);
        shown.ok().trim_end().to_owned()
    }

    /// Returns a command that runs where systemd is, as a unit.
    pub fn as_unit(&self, command: &Command) -> Command {
        let mut launcher = self.program("systemd-run");
        launcher.arg("--same-dir");
        for name in ["PATH", "HOME"] {
            let value = std::env::var(name).unwrap_or_default();
            launcher.arg(format!("--setenv={name}={value}"));
        }
        self.case.mark(unit(launcher, command))
    }

    /// Returns the directory of a cgroup of this systemd.
    pub fn cgroup(&self, path: &str) -> PathBuf {
        let root = Path::new("/sys/fs/cgroup");
        match self.own {
            None => root.join(path),
            Some(_) => root.join(self.case.id()).join(path),
        }
    }
}

/// Returns a command that a `systemd-run` runs as a unit.
pub(crate) fn unit(mut launcher: Command, command: &Command) -> Command {
    launcher.args(["--quiet", "--wait", "--pipe", "--collect"]);
    for (name, value) in command.get_envs() {
        if let (Some(name), Some(value)) = (name.to_str(), value.and_then(|v| v.to_str())) {
            launcher.arg(format!("--setenv={name}={value}"));
        }
    }
    if let Some(directory) = command.get_current_dir() {
        launcher.current_dir(directory);
    }
    // If this were set, Podman would leave conmon in the unit whose process Podman is, and conmon
    // would end with that unit.
    launcher.args(["--", "env", "--unset=INVOCATION_ID"]);
    launcher.arg(command.get_program());
    // systemd-run would expand its own variables in them.
    let arguments = command.get_args().map(|a| a.to_str().unwrap());
    launcher.args(arguments.map(|argument| argument.replace('$', "$$")));
    launcher
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        let Some(own) = &mut self.own else { return };
        // Its child ends with it and, as the first process of its pid namespace, ends everything
        // else.
        own.unshare.kill();
        self.case.wait_for("the end of systemd", || {
            !Path::new("/proc").join(&own.pid).exists()
        });
        leftovers::remove_cgroups_named(self.case.id());
    }
}
