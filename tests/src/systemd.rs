//! A host that systemd manages: this one, or namespaces of a test's own with a systemd that has
//! nothing but a bus and what it is asked for.

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

const PROGRAM: &str = "/lib/systemd/systemd";

/// Units that systemd can't do without, and the bus.
const UNITS: [(&str, &str); 6] = [
    ("nacre-test.target", "Requires=dbus.service\n"),
    ("sysinit.target", ""),
    ("basic.target", ""),
    ("shutdown.target", ""),
    (
        "dbus.socket",
        "[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    ),
    (
        "dbus.service",
        "Requires=dbus.socket\n[Service]\nType=notify\n\
         ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile\n",
    ),
];

/// A systemd, which ends with all that it manages when this is dropped.
pub struct Systemd<'a> {
    case: &'a Case,
    /// What is there of it if it isn't this host's.
    own: Option<Own>,
}

struct Own {
    unshare: Running,
    /// As seen from here.
    pid: String,
}

impl<'a> Systemd<'a> {
    /// Finds or starts one. Ends the test where there can be none.
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
        fs::create_dir(&units).unwrap();
        for (name, text) in UNITS {
            let text = format!("[Unit]\nDefaultDependencies=no\n{text}");
            fs::write(units.join(name), text).unwrap();
        }
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
             exec {PROGRAM} --system --unit=nacre-test.target --log-target=null --show-status=no'",
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

    /// A program there, which isn't one of its units.
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

    /// Has such a program do something.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Outcome {
        let mut command = self.case.mark(self.program(name));
        command.args(arguments);
        self.case.spawn(command).finish()
    }

    /// A command carried out there, in no unit.
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = self.program(command.get_program().to_str().unwrap());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            inside.env(name, value.unwrap_or_default());
        }
        inside
    }

    /// A property of a unit, as `systemctl show` says.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let shown = self.run("systemctl", &["show", "--value", "--property", name, unit]);
        shown.ok().trim_end().to_owned()
    }

    /// A command carried out there, as a unit.
    pub fn as_unit(&self, command: &Command) -> Command {
        let mut inside = self.program("systemd-run");
        inside.args(["--quiet", "--wait", "--pipe", "--collect", "--same-dir"]);
        for (name, value) in command.get_envs() {
            if let (Some(name), Some(value)) = (name.to_str(), value.and_then(|v| v.to_str())) {
                inside.arg(format!("--setenv={name}={value}"));
            }
        }
        for name in ["PATH", "HOME"] {
            let value = std::env::var(name).unwrap_or_default();
            inside.arg(format!("--setenv={name}={value}"));
        }
        if let Some(directory) = command.get_current_dir() {
            inside.current_dir(directory);
        }
        // Podman leaves conmon in a unit whose process it is, and it would end with that.
        inside.args(["--", "env", "--unset=INVOCATION_ID"]);
        inside.arg(command.get_program());
        // Which would put its own variables in.
        let arguments = command.get_args().map(|a| a.to_str().unwrap());
        inside.args(arguments.map(|argument| argument.replace('$', "$$")));
        self.case.mark(inside)
    }

    /// Where a cgroup of its is.
    pub fn cgroup(&self, path: &str) -> PathBuf {
        let root = Path::new("/sys/fs/cgroup");
        match self.own {
            None => root.join(path),
            Some(_) => root.join(self.case.id()).join(path),
        }
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        let Some(own) = &mut self.own else { return };
        // Its child ends with it, and everything with that, the first of its pid namespace.
        own.unshare.kill();
        self.case.wait_for("the end of systemd", || {
            !Path::new("/proc").join(&own.pid).exists()
        });
        leftovers::remove_cgroups_named(self.case.id());
    }
}
