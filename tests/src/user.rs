//! An ordinary user of the test's own, with a home, a runtime directory and ids to map.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::case::Case;
use crate::console::in_shell;
use crate::nacre::{self, Isolation, Running};
use crate::place;
use crate::systemd::{self, Systemd};

/// The user's id, which has no entry anywhere else.
pub const ID: u32 = 64_321;

/// The first of the 65536 subordinate ids of that user.
pub const FIRST: u32 = 300_000;

/// A further group of that user's, which has `/dev/kvm`.
const KVM_GROUP: u32 = 64_322;

/// Settings that keep ordinary users from creating user namespaces.
const DENIED: [(&str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ),
];

/// The files of `/etc` that define the user, in the test's directory.
const FILES: [&str; 4] = ["passwd", "group", "subuid", "subgid"];

/// A user who exists in a mount namespace, or on a systemd's host.
pub struct User<'a> {
    case: &'a Case,
    place: Place<'a>,
}

enum Place<'a> {
    /// A process in that mount namespace.
    Mounts(Running),
    /// A systemd that runs the user's own manager of units.
    Systemd(Systemd<'a>),
}

impl<'a> User<'a> {
    /// Makes a user. Ends the test if ordinary users can't have containers.
    pub fn new(case: &'a Case) -> Self {
        let etc = make(case);
        let script = "for f in passwd group subuid subgid; do \
                          touch /etc/$f && mount --bind $f /etc/$f || exit; \
                      done
                      if [ -e /dev/net/tun ]; then
                          mknod -m 666 tun c 10 200 && mount --bind tun /dev/net/tun || exit
                      fi
                      if [ -e /dev/kvm ]; then
                          mknod -m 660 kvm c 10 232 && chgrp $1 kvm && \
                          mount --bind kvm /dev/kvm || exit
                      fi
                      echo ready; exec sleep 1000";
        let mut holder = case.mark(Command::new("unshare"));
        holder.args(["--mount", "sh", "-c", script, "sh", &KVM_GROUP.to_string()]);
        holder.current_dir(etc);
        let mut holder = case.spawn(holder);
        holder.wait_for_line("ready");
        let place = Place::Mounts(holder);
        Self { case, place }
    }

    /// Makes a user for whose containers systemd makes cgroups that belong to the user. Ends the
    /// test if that isn't possible.
    pub fn with_systemd(case: &'a Case) -> Self {
        let etc = make(case);
        let user = Self {
            case,
            place: Place::Systemd(Systemd::start(case)),
        };
        user.start_manager(&etc);
        case.wait_for("the user's systemd", || {
            let mut asked = user.command("busctl");
            asked.args(["--user", "status", "org.freedesktop.systemd1"]);
            let asked = user.beside_systemd(&become_user(&asked));
            case.spawn(asked).finish().status() == Some(0)
        });
        user
    }

    /// Starts the user's own manager, where `etc` defines the user. It gets its cgroup as from
    /// `user@.service`, whose `User=` works only for users that systemd knows.
    fn start_manager(&self, etc: &Path) {
        let units = self.case.directory().join("users-units");
        systemd::write_units(&units, "session");
        let script = format!(
            "cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
             cd $cgroup && chown {ID}:{ID} . cgroup.procs cgroup.subtree_control cgroup.threads
             cd / && exec setpriv --reuid {ID} --regid {ID} --clear-groups {} --user \
                 --log-target=null --unit={}",
            systemd::PROGRAM,
            systemd::TARGET,
        );
        let file = self.case.directory().join("users-manager");
        fs::write(&file, script).unwrap();
        let mut start = Command::new("systemd-run");
        start.args([
            "--quiet",
            "--property=Type=notify",
            "--property=KillSignal=SIGKILL",
            "--property=Delegate=yes",
        ]);
        start.arg(format!("--unit={}", self.manager()));
        for name in FILES {
            let from = etc.join(name);
            start.arg(format!(
                "--property=BindPaths={}:/etc/{name}",
                from.display()
            ));
        }
        let runtime = self.runtime();
        let paths = format!(
            "{}:{}/systemd/transient",
            units.display(),
            runtime.display()
        );
        for (name, value) in [
            ("HOME", self.home().to_str().unwrap()),
            ("XDG_RUNTIME_DIR", runtime.to_str().unwrap()),
            ("SYSTEMD_UNIT_PATH", &paths),
            ("SYSTEMD_GENERATOR_PATH", "/nonexistent"),
        ] {
            start.arg(format!("--setenv={name}={value}"));
        }
        start.arg("sh").arg(file);
        self.case
            .spawn(self.beside_systemd(&start))
            .finish()
            .expect(0);
    }

    /// Returns a command that runs where the system's systemd is.
    fn beside_systemd(&self, command: &Command) -> Command {
        match &self.place {
            Place::Systemd(systemd) => systemd.enter(command),
            Place::Mounts(_) => unreachable!("the user has no systemd"),
        }
    }

    /// Returns the name of the unit that runs the user's systemd.
    fn manager(&self) -> String {
        format!("{}-user.service", self.case.id())
    }

    /// Returns the user's home directory.
    pub fn home(&self) -> PathBuf {
        self.case.directory().join("home")
    }

    /// Returns the directory that `XDG_RUNTIME_DIR` names.
    pub fn runtime(&self) -> PathBuf {
        self.case.directory().join("users-run")
    }

    /// Returns the program under test by a name that selects the isolation, where the user can reach
    /// it and what it needs.
    pub fn program(&self) -> PathBuf {
        if nacre::is_reference() {
            return nacre::runtime();
        }
        let directory = self.case.directory().join("users-bin");
        let is_there = directory.exists();
        if !is_there {
            fs::create_dir(&directory).unwrap();
        }
        match self.case.isolation() {
            Isolation::Process => {
                let copy = directory.join("nacre-process");
                if !is_there {
                    install(&nacre::runtime(), &copy);
                }
                copy
            }
            Isolation::Vm => {
                let script = directory.join("nacre-vm");
                if !is_there {
                    install_for_vms(&directory);
                }
                script
            }
        }
    }

    /// Returns a program with the user's environment.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.case.mark(Command::new(program.as_ref()));
        command
            .env("HOME", self.home())
            .env("TMPDIR", self.home())
            .env("XDG_RUNTIME_DIR", self.runtime())
            .env("USER", "nacre-test")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command
    }

    /// Returns such a command run by the user, in the user's directory.
    pub fn enter(&self, command: &Command) -> Command {
        let home = self.home();
        match &self.place {
            Place::Mounts(holder) => {
                let command = become_user(command);
                let mut inside = Command::new("nsenter");
                inside
                    .arg(format!("--target={}", holder.pid()))
                    .arg("--mount")
                    .arg(format!("--wdns={}", home.display()))
                    .arg(command.get_program())
                    .args(command.get_args())
                    .env_clear();
                for (name, value) in command.get_envs() {
                    inside.env(name, value.unwrap_or_default());
                }
                inside
            }
            Place::Systemd(_) => {
                let mut launcher = self.command("systemd-run");
                launcher.args(["--user", &format!("--working-directory={}", home.display())]);
                systemd::unit(self.beside_systemd(&become_user(&launcher)), command)
            }
        }
    }

    /// Gives the user a directory with all that is in it.
    pub fn give(&self, directory: &Path) {
        give(directory);
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        let manager = self.manager();
        match &mut self.place {
            Place::Mounts(holder) => holder.kill(),
            Place::Systemd(systemd) => {
                systemd.run("systemctl", &["stop", &manager]);
            }
        }
    }
}

/// Copies a file so that everybody can run it.
fn install(from: &Path, to: &Path) {
    // A file that this process itself wrote could still be open for writing in another test's child.
    let mut install = Command::new("install");
    install.args(["-m", "755"]).args([from, to]);
    assert!(install.status().unwrap().success());
}

/// Makes the script `nacre-vm` in the directory, and beside it what that needs.
fn install_for_vms(directory: &Path) {
    let program = directory.join("program");
    fs::create_dir(&program).unwrap();
    install(&nacre::runtime(), &program.join("nacre-vm"));
    install(&nacre::binary("nacre-agent"), &program.join("nacre-agent"));
    install(&nacre::kernel(), &program.join("vmlinux"));
    let configuration = directory.join("config.toml");
    let text = format!("[vm]\nboot-timeout = {}\n", nacre::BOOT_TIMEOUT);
    fs::write(&configuration, text).unwrap();
    let mut command = Command::new(program.join("nacre-vm"));
    command.arg("--config").arg(configuration);
    if place::is_emulated() {
        command.arg("--hypervisor=qemu");
    }
    let unwritten = directory.join("script");
    let text = format!("#!/bin/sh\nexec {} \"$@\"\n", in_shell(&command));
    fs::write(&unwritten, text).unwrap();
    install(&unwritten, &directory.join("nacre-vm"));
}

/// Returns a command, run as the user.
fn become_user(command: &Command) -> Command {
    let mut inside = Command::new("setpriv");
    inside
        .args(["--reuid", &ID.to_string(), "--regid", &ID.to_string()])
        .args(["--groups", &KVM_GROUP.to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        inside.env(name, value.unwrap_or_default());
    }
    inside
}

/// Makes the user's directories and the files that define the user; returns where those are.
fn make(case: &Case) -> PathBuf {
    case.needs("setpriv", "util-linux");
    case.needs("nsenter", "util-linux");
    case.needs("newuidmap", "uidmap");
    let is = |(file, value): &(&str, &str)| {
        fs::read_to_string(file).is_ok_and(|found| found.trim() == *value)
    };
    if DENIED.iter().any(is) {
        case.ignore("ordinary users may have no user namespaces here");
    }
    for (name, mode) in [("home", 0o755), ("users-run", 0o700)] {
        let directory = case.directory().join(name);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        give(&directory);
    }
    let etc = case.directory().join("etc");
    fs::create_dir(&etc).unwrap();
    let home = case.directory().join("home");
    let lines = [
        format!("nacre-test:x:{ID}:{ID}::{}:/bin/sh\n", home.display()),
        format!("nacre-test:x:{ID}:\nnacre-test-kvm:x:{KVM_GROUP}:nacre-test\n"),
        format!("nacre-test:{FIRST}:65536\n"),
        format!("nacre-test:{FIRST}:65536\n"),
    ];
    for (file, line) in FILES.into_iter().zip(lines) {
        let others = fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
        fs::write(etc.join(file), others + &line).unwrap();
    }
    etc
}

fn give(path: &Path) {
    lchown(path, Some(ID), Some(ID)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}
