//! Network namespaces in which a test may make bridges, packet filters and name servers without
//! touching the host's.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};

use nix::sched::{CloneFlags, setns};

use crate::case::Case;
use crate::nacre::Running;

/// Where CNI's plugins are installed, by distributions' packages and by hand.
const PLACES: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];

/// Returns where CNI's plugins are. Ends the test if they aren't installed.
pub fn plugins(case: &Case) -> PathBuf {
    let mut places = PLACES.into_iter().map(PathBuf::from);
    places
        .find(|place| place.join("bridge").exists())
        .unwrap_or_else(|| case.ignore("no CNI plugins (containernetworking-plugins) here"))
}

/// Fails unless a text contains all of these.
#[track_caller]
pub fn has_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// A network namespace of the test's own, with no interface but `lo`, and a mount namespace with
/// empty directories where clients keep what they know about networks. They are gone, with all that
/// is in them, when this is dropped and the last process in them has ended.
pub struct Network(Running);

impl Network {
    /// Makes the namespaces. Ends the test if no bridge can be made.
    pub fn new(case: &Case) -> Self {
        case.needs("nsenter", "util-linux");
        let mut holder = case.mark(Command::new("unshare"));
        // Podman keeps addresses in use and name servers in the first directory, whatever it is
        // told, and network namespaces in the second.
        let script = "ip link add probe type bridge && ip link delete probe && ip link set lo up \
                      && mkdir -p /run/containers /run/netns \
                      && mount -t tmpfs tmpfs /run/containers && mount -t tmpfs tmpfs /run/netns \
                      && echo ready && exec sleep 1000";
        holder.args(["--net", "--mount", "sh", "-c", script]);
        let mut holder = case.spawn(holder);
        let mut line = Vec::new();
        let _ = std::io::Read::read_to_end(
            &mut std::io::Read::take(holder.stdout.as_mut().unwrap(), 6),
            &mut line,
        );
        if line != b"ready\n" {
            let why = holder.finish().stderr;
            case.ignore(&format!("no network namespace with a bridge here: {why}"));
        }
        Self(holder)
    }

    /// Returns a command that runs in these namespaces.
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .arg(format!("--target={}", self.0.pid()))
            .args(["--net", "--mount"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            inside.env(name, value.unwrap_or_default());
        }
        if let Some(directory) = command.get_current_dir() {
            inside.current_dir(directory);
        }
        inside
    }

    /// Runs a shell script in these namespaces, which must succeed. Returns its output.
    #[track_caller]
    pub fn shell(&self, case: &Case, script: &str) -> String {
        let mut command = case.mark(Command::new("sh"));
        command.args(["-ec", &format!("PATH=$PATH:/usr/sbin:/sbin; {script}")]);
        case.spawn(self.enter(&command)).finish().expect(0)
    }

    /// Returns the path, valid outside too, of a namespace that `ip netns add` made in it.
    pub fn named(&self, name: &str) -> PathBuf {
        format!("/proc/{}/root/run/netns/{name}", self.0.pid()).into()
    }

    /// Starts a thread of this process in these namespaces.
    pub fn spawn<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope thread::Scope<'scope, '_>,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.pid())).unwrap();
        scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.0.kill();
    }
}
