//! Podman, with storage, state and cgroups of the test's own.

mod cni;
mod few;
mod life;
mod limits;
mod network;
mod setting;
mod wall;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre_tests::client::ParentCgroup;
use nacre_tests::network::Network;
use nacre_tests::systemd::Systemd;
use nacre_tests::{Case, Outcome, Test};
use nix::mount::{MntFlags, umount2};

use super::image::{self, BUSYBOX};

/// All tests here.
pub(crate) fn tests() -> Vec<Test> {
    [
        few::tests(),
        life::tests(),
        limits::tests(),
        setting::tests(),
        wall::tests(),
        network::tests(),
        cni::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Podman's storage, which it mounts over itself, and leaves so if two of its processes end at
/// once.
struct Storage(PathBuf);

impl Drop for Storage {
    fn drop(&mut self) {
        // Mostly, Podman has done so.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

struct Podman<'a> {
    case: &'a Case,
    // Before the cgroup: the process that keeps it is one of the test's.
    network: Option<Network>,
    systemd: Option<Systemd<'a>>,
    cgroup: ParentCgroup,
    // After the cgroup, which waits for Podman's helpers.
    _storage: Storage,
    driver: &'static str,
}

impl<'a> Podman<'a> {
    /// Podman with the busybox image.
    fn new(case: &'a Case) -> Self {
        let podman = Self::without_image(case);
        podman.import(&image::busybox(case), BUSYBOX);
        podman
    }

    /// The same in a network namespace of its own, where it may have bridges.
    fn networked(case: &'a Case) -> Self {
        let mut podman = Self::new(case);
        podman.network = Some(Network::new(case));
        podman
    }

    /// The same where systemd makes cgroups.
    fn under_systemd(case: &'a Case) -> Self {
        let systemd = Systemd::start(case);
        let podman = Self::managed(case, "systemd", Some(systemd));
        podman.import(&image::busybox(case), BUSYBOX);
        podman
    }

    fn without_image(case: &'a Case) -> Self {
        Self::managed(case, "cgroupfs", None)
    }

    /// Podman with a manager of cgroups.
    fn managed(case: &'a Case, manager: &str, systemd: Option<Systemd<'a>>) -> Self {
        case.needs("podman", "podman");
        case.needs("conmon", "conmon");
        // The limits: this process may not be allowed to raise its own.
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
        let podman = Self {
            case,
            cgroup: ParentCgroup::of(case),
            _storage: Storage(case.directory().join("storage/overlay")),
            driver: match overlay_works(case.directory()) {
                true => "overlay",
                false => "vfs",
            },
            network: None,
            systemd,
        };
        let info = podman.run(&["info"]);
        if info.status() != Some(0) {
            case.ignore(&format!("podman doesn't run here: {}", info.stderr.trim()));
        }
        podman
    }

    fn import(&self, archive: &Path, name: &str) {
        let archive = archive.to_str().unwrap();
        self.run(&["import", "--quiet", archive, name]).expect(0);
    }

    fn command(&self, words: &[&str]) -> Command {
        let place = |name: &str| self.case.directory().join(name);
        let mut command = self.case.mark(Command::new("podman"));
        command
            // conmon leaves word of an OOM kill where it was started.
            .current_dir(self.case.directory())
            .env("CONTAINERS_CONF", place("containers.conf"))
            .arg("--root")
            .arg(place("storage"))
            .arg("--runroot")
            .arg(place("run"))
            .arg("--tmpdir")
            .arg(place("libpod"))
            .arg("--network-config-dir")
            .arg(place("networks"))
            .args(["--storage-driver", self.driver, "--runtime"])
            .arg(self.case.binary())
            .args(words);
        self.inside(command)
    }

    /// A command in the network namespace that Podman's bridges are in, or where systemd is.
    fn inside(&self, command: Command) -> Command {
        match (&self.network, &self.systemd) {
            (Some(network), _) => network.enter(&command),
            (None, Some(systemd)) => systemd.as_unit(&command),
            (None, None) => command,
        }
    }

    /// A podman command, carried out.
    fn run(&self, words: &[&str]) -> Outcome {
        self.case.spawn(self.command(words)).finish()
    }

    /// The same, which must go well. Returns what it prints.
    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.run(words).expect(0)
    }

    /// `podman run --rm` with flags, of the busybox image.
    fn once(&self, flags: &[&str], words: &[&str]) -> Outcome {
        let mut all = vec!["run", "--rm", "--cgroup-parent", self.cgroup.path()];
        all.extend(flags);
        all.push(BUSYBOX);
        all.extend(words);
        self.run(&all)
    }

    /// `podman run --detach` with flags and a script, of the busybox image, as `c`.
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
    }

    /// What `podman inspect` says about the container, by a Go template.
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

/// Whether overlays can be mounted above a directory.
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
