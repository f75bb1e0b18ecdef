//! Docker's daemon, of a test's own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nacre_tests::client::{Daemon, ParentCgroup};
use nacre_tests::network::Network;
use nacre_tests::{Case, Outcome};
use serde_json::json;

use crate::clients::image::{self, BUSYBOX};

pub(super) struct Docker<'a> {
    pub(super) case: &'a Case,
    // The fields are dropped in this order.
    _daemon: Daemon,
    pub(super) network: Option<Network>,
    _cgroup: ParentCgroup,
}

impl<'a> Docker<'a> {
    /// Starts Docker with the busybox image, and no network.
    pub(super) fn start(case: &'a Case) -> Self {
        Self::start_in(case, None)
    }

    /// Starts Docker in a network namespace, where it may have bridges.
    pub(super) fn start_in(case: &'a Case, network: Option<Network>) -> Self {
        case.needs("dockerd", "docker.io");
        case.needs("docker", "docker.io");
        let place = |name: &str| case.directory().join(name);
        let cgroup = ParentCgroup::of(case);
        let mut config = json!({
            "runtimes": { "tested": { "path": case.binary() } },
            "default-runtime": "tested",
            "data-root": place("data-root"),
            "exec-root": place("exec"),
            "pidfile": place("docker.pid"),
            "hosts": [format!("unix://{}", socket(case).display())],
            "ip6tables": false,
            "cgroup-parent": cgroup.path(),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "log-level": "warn",
        });
        if network.is_none() {
            config["bridge"] = "none".into();
            config["iptables"] = false.into();
        }
        fs::write(place("daemon.json"), config.to_string()).unwrap();
        // Docker's containerd writes its threads' stacks here when a busy machine keeps it from
        // answering in time; Docker then restarts it.
        fs::create_dir(place("daemon-tmp")).unwrap();
        let mut command = case.mark(Command::new("dockerd"));
        command
            .env("TMPDIR", place("daemon-tmp"))
            .arg("--config-file")
            .arg(place("daemon.json"));
        if let Some(network) = &network {
            command = network.enter(&command);
        }
        let mut daemon = Daemon::start(command, case.directory());
        let asks = || case.spawn(docker(case, &["version"])).finish();
        if let Err(why) = daemon.wait_until(asks) {
            drop(daemon);
            case.ignore(&format!("Docker's daemon doesn't run here: {why}"));
        }
        let docker = Self {
            case,
            _daemon: daemon,
            network,
            _cgroup: cgroup,
        };
        let archive = image::busybox(case);
        docker.ok(&["import", archive.to_str().unwrap(), BUSYBOX]);
        docker
    }

    pub(super) fn run(&self, words: &[&str]) -> Outcome {
        self.case.spawn(docker(self.case, words)).finish()
    }

    #[track_caller]
    pub(super) fn ok(&self, words: &[&str]) -> String {
        self.run(words).expect(0)
    }

    /// Runs `docker run --rm` with flags and the busybox image.
    pub(super) fn once(&self, flags: &[&str], words: &[&str]) -> Outcome {
        self.run(&[&["run", "--rm"], flags, &[BUSYBOX], words].concat())
    }

    #[track_caller]
    pub(super) fn inspect(&self, template: &str) -> String {
        self.ok(&["inspect", "--format", template, "c1"])
            .trim_end()
            .to_owned()
    }
}

/// Returns the socket's path, which is shorter than 108 bytes, as it must be.
fn socket(case: &Case) -> PathBuf {
    case.directory().join("d")
}

pub(super) fn docker(case: &Case, words: &[&str]) -> Command {
    let mut command = case.mark(Command::new("docker"));
    command
        .env("DOCKER_CONFIG", case.directory().join("docker-config"))
        .args(["--host", &format!("unix://{}", socket(case).display())])
        .args(words);
    command
}
