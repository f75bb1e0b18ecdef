//! Podman, with storage, state and cgroups of the test's own.

mod cni;
mod few;
mod life;
mod limits;
mod network;
mod rootless;
mod setting;
mod wall;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre_tests::client::ParentCgroup;
use nacre_tests::network::Network;
use nacre_tests::systemd::Systemd;
use nacre_tests::user::User;
use nacre_tests::{Case, Outcome, Test};
use nix::mount::{MntFlags, umount2};

use super::image::{self, BUSYBOX};

/// Returns all tests here.
pub(crate) fn tests() -> Vec<Test> {
    [
        few::tests(),
        life::tests(),
        limits::tests(),
        setting::tests(),
        wall::tests(),
        network::tests(),
        cni::tests(),
        rootless::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Podman's storage, which Podman mounts over itself, and leaves mounted if two of its processes
/// end at once.
struct Storage(PathBuf);

impl Drop for Storage {
    fn drop(&mut self) {
        // Usually Podman has done so itself.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

struct Podman<'a> {
    case: &'a Case,
    // Dropped before the cgroup: the process that holds the network is one of the test's.
    network: Option<Network>,
    systemd: Option<Systemd<'a>>,
    user: Option<User<'a>>,
    cgroup: ParentCgroup,
    // Dropped after the cgroup, which waits for Podman's helpers.
    _storage: Storage,
    driver: &'static str,
}

impl<'a> Podman<'a> {
    /// Sets up Podman with the busybox image.
    fn new(case: &'a Case) -> Self {
        let podman = Self::without_image(case);
        podman.import(&image::busybox(case), BUSYBOX);
        podman
    }

    /// Does the same in a network namespace of its own, where it may have bridges.
    fn networked(case: &'a Case) -> Self {
        let mut podman = Self::new(case);
        podman.network = Some(Network::new(case));
        podman
    }

    /// Does the same where systemd makes cgroups.
    fn under_systemd(case: &'a Case) -> Self {
        Self::configure(case, "systemd");
        let podman = Self {
            systemd: Some(Systemd::start(case)),
            ..Self::of_case(case)
        };
        podman.check();
        podman.import(&image::busybox(case), BUSYBOX);
        podman
    }

    fn without_image(case: &'a Case) -> Self {
        Self::configure(case, "cgroupfs");
        let podman = Self::of_case(case);
        podman.check();
        podman
    }

    /// Configures Podman to use a cgroup manager. Ends the test if there is no Podman.
    fn configure(case: &Case, manager: &str) {
        case.needs("podman", "podman");
        case.needs("conmon", "conmon");
        // About the limits: this process may not be allowed to raise its own.
        fs::write(
            case.directory().join("containers.conf"),
            format!(
                "[engine]\ncgroup_manager = \"{manager}\"\nevents_logger = \"file\"\n\
                 lock_type = \"file\"\n\
                 [containers]\nnetns = \"none\"\nlog_driver = \"k8s-file\"\n\
                 default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                 [network]\nnetwork_backend = \"netavark\"\n"
            ),
        )
        .unwrap();
    }

    /// Sets up Podman without an image.
    fn of_case(case: &'a Case) -> Self {
        Self {
            case,
            cgroup: ParentCgroup::of(case),
            _storage: Storage(case.directory().join("storage/overlay")),
            driver: if overlay_works(case.directory()) {
                "overlay"
            } else {
                "vfs"
            },
            network: None,
            systemd: None,
            user: None,
        }
    }

    /// Ends the test if Podman doesn't run.
    fn check(&self) {
        let info = self.run(&["info"]);
        if info.status() != Some(0) {
            let why = info.stderr.trim();
            self.case.ignore(&format!("podman doesn't run here: {why}"));
        }
    }

    fn import(&self, archive: &Path, name: &str) {
        let archive = archive.to_str().unwrap();
        self.run(&["import", "--quiet", archive, name]).expect(0);
    }

    fn command(&self, words: &[&str]) -> Command {
        let (home, mut command, runtime) = match &self.user {
            Some(user) => (user.home(), user.command("podman"), user.program()),
            None => {
                let mut command = self.case.mark(Command::new("podman"));
                // conmon leaves a file about an OOM kill where it was started.
                command.current_dir(self.case.directory());
                (self.case.directory().into(), command, self.case.binary())
            }
        };
        let place = |name: &str| home.join(name);
        command
            .env(
                "CONTAINERS_CONF",
                self.case.directory().join("containers.conf"),
            )
            .arg("--root")
            .arg(place("storage"))
            .arg("--runroot")
            .arg(match &self.user {
                Some(_) => self.short().join("run"),
                None => place("run"),
            })
            .arg("--tmpdir")
            .arg(match &self.user {
                Some(_) => self.short(),
                None => place("libpod"),
            })
            .arg("--network-config-dir")
            .arg(place("networks"))
            .args(["--storage-driver", self.driver, "--runtime"])
            .arg(runtime)
            .args(words);
        self.inside(command)
    }

    /// Returns a directory of a user's Podman for what mayn't have a long path: sockets, and what
    /// `--runroot` names.
    fn short(&self) -> PathBuf {
        self.case.directory().join("t")
    }

    /// Returns a command in the network namespace that Podman's bridges are in, or where systemd
    /// is.
    fn inside(&self, command: Command) -> Command {
        match (&self.network, &self.systemd, &self.user) {
            (Some(network), ..) => network.enter(&command),
            (_, Some(systemd), _) => systemd.as_unit(&command),
            (.., Some(user)) => user.enter(&command),
            (None, None, None) => command,
        }
    }

    /// Runs a podman command.
    fn run(&self, words: &[&str]) -> Outcome {
        self.case.spawn(self.command(words)).finish()
    }

    /// Runs a podman command, which must succeed, and returns its output.
    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.run(words).expect(0)
    }

    /// Runs `podman run --rm` with flags and the busybox image.
    fn once(&self, flags: &[&str], words: &[&str]) -> Outcome {
        let mut all = vec!["run", "--rm", "--cgroup-parent", self.cgroup.path()];
        all.extend(flags);
        all.push(BUSYBOX);
        all.extend(words);
        self.run(&all)
    }

    /// Runs `podman run --detach` with flags, the busybox image and a script, as `c`.
    #[track_caller]
    fn detach(&self, flags: &[&str], script: &str) {
        let parent = self.cgroup.path();
        let mut all = vec!["run", "--detach", "--name", "c", "--cgroup-parent", parent];
        all.extend(flags);
        all.extend([BUSYBOX, "sh", "-c", script]);
        self.ok(&all);
    }

    /// Removes everything: what stays then was left behind.
    #[track_caller]
    fn clear(&self) {
        self.ok(&["rm", "--all", "--force", "--time", "0"]);
        self.ok(&["rmi", "--all", "--force"]);
        if self.user.is_some() {
            // This ends the process that keeps the user's namespaces.
            self.ok(&["system", "migrate"]);
        }
    }

    /// Returns what `podman inspect` says about the container, by a Go template.
    #[track_caller]
    fn inspect(&self, template: &str) -> String {
        self.ok(&["inspect", "--format", template, "c"])
            .trim_end()
            .to_owned()
    }

    #[track_caller]
    fn wait_for_log(&self, text: &str) {
        let what = format!("{text:?} in the log");
        self.case
            .wait_for(&what, || self.ok(&["logs", "c"]).contains(text));
    }
}

/// Returns whether overlays can be mounted above a directory.
fn overlay_works(directory: &Path) -> bool {
    let place = |name: &str| {
        let path = directory.join("overlay").join(name);
        fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (lower, upper, work, on) = (place("l"), place("u"), place("w"), place("m"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "-o", &options, "overlay", &on])
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return false;
    }
    Command::new("umount")
        .arg(&on)
        .status()
        .is_ok_and(|status| status.success())
}
