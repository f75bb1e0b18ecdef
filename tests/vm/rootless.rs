//! VMs of an ordinary user, who calls `nacre` itself: with a user namespace of nacre's making, and in
//! one of the user's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre_tests::user::{FIRST, ID, User};
use nacre_tests::vm::{Role, with_role};
use nacre_tests::{Bundle, Case, Outcome, leftovers};
use nix::unistd::Pid;
use serde_json::{Value, json};

nacre_tests::tests![
    a_life,
    in_a_user_namespace_of_the_users,
    a_user_namespace_of_the_containers,
    with_one_id,
    owners_of_files,
    its_processes_are_nobodys,
];

/// Makes a user namespace as Podman does: the user's id is 0, and from 1 those that it was given.
const AS_ROOT: [&str; 5] = ["unshare", "--user", "--map-root-user", "--map-auto", "--"];

/// Runs the user's commands, with a bundle in the user's directory.
struct Rootless<'a> {
    case: &'a Case,
    user: User<'a>,
}

impl<'a> Rootless<'a> {
    fn new(case: &'a Case) -> Self {
        let user = User::new(case);
        Self { case, user }
    }

    /// Returns a bundle of the user's.
    fn bundle(&self) -> Bundle {
        let bundle = Bundle::busybox(&self.user.home());
        self.user.give(&bundle.rootfs());
        bundle
    }

    /// Makes a directory of the user's, to be a volume.
    fn data(&self) -> PathBuf {
        let data = self.user.home().join("data");
        fs::create_dir(&data).unwrap();
        self.user.give(&data);
        data
    }

    fn run(&self, words: &[&str]) -> Outcome {
        self.by(&[], words)
    }

    /// Runs it through other programs.
    fn by(&self, before: &[&str], words: &[&str]) -> Outcome {
        self.case.spawn(self.command(before, words)).finish()
    }

    /// Runs it through other programs, with a bundle, and leaves a container behind.
    #[track_caller]
    fn leave(&self, before: &[&str], bundle: &Bundle) {
        bundle.write();
        let words = ["run", "--detach", self.case.id()];
        let status = self.case.leave(self.command(before, &words));
        assert_eq!(status, 0, "{}", self.case.output());
    }

    fn command(&self, before: &[&str], words: &[&str]) -> Command {
        let program = self.user.program();
        let mut all = before.iter().copied().chain([program.to_str().unwrap()]);
        let mut command = self.user.command(all.next().unwrap());
        command.args(all).args(words);
        self.user.enter(&command)
    }

    /// Returns where the state is if no flag names it.
    fn state(&self) -> PathBuf {
        self.user.runtime().join("nacre")
    }

    /// Runs a container from its beginning to its end, with everything that commands do.
    fn live(&self, before: &[&str]) {
        let id = self.case.id();
        let bundle = self.bundle().shell("id -u; hostname; uname -r; exit 5");
        bundle.write();
        let outcome = self.by(before, &["run", id]);
        let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let output = outcome.expect(5);
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[..2], ["0", "nacre"], "{output}");
        assert_ne!(lines[2], host.trim());
        assert_eq!(self.run(&["list", "--quiet"]).ok(), "");

        self.leave(
            before,
            &bundle.shell("trap 'exit 7' TERM; while :; do sleep 0.05; done"),
        );
        assert!(self.state().join(id).is_dir());
        assert_eq!(self.run(&["exec", id, "id", "-u"]).ok(), "0\n");
        assert_eq!(
            self.run(&["exec", id, "sh", "-c", "exit 3"]).status(),
            Some(3)
        );
        let state: Value = serde_json::from_str(&self.run(&["state", id]).ok()).unwrap();
        assert_eq!(state["status"], "running");
        self.run(&["pause", id]).ok();
        self.run(&["resume", id]).ok();
        self.run(&["kill", id, "TERM"]).ok();
        self.case.wait_for("the container's end", || {
            self.run(&["state", id]).ok().contains("stopped")
        });
        self.run(&["delete", id]).ok();
        assert!(leftovers::files(&self.state()).is_empty());
    }
}

fn a_life(case: &Case) {
    Rootless::new(case).live(&[]);
}

fn in_a_user_namespace_of_the_users(case: &Case) {
    Rootless::new(case).live(&AS_ROOT);
}

/// Its mappings name the host's ids, as with the other isolation.
fn a_user_namespace_of_the_containers(case: &Case) {
    let rootless = Rootless::new(case);
    let mappings = json!([
        { "containerID": 0, "hostID": ID, "size": 1 },
        { "containerID": 1, "hostID": FIRST + 100, "size": 1000 },
    ]);
    let data = rootless.data();
    let bundle = rootless
        .bundle()
        .push("/linux/namespaces", json!({ "type": "user" }))
        .set("/linux/uidMappings", mappings.clone())
        .set("/linux/gidMappings", mappings)
        .push("/process/capabilities/bounding", "CAP_CHOWN")
        .push("/process/capabilities/effective", "CAP_CHOWN")
        .push("/process/capabilities/permitted", "CAP_CHOWN")
        .mount("/data", "bind", data.to_str().unwrap(), &["rbind"])
        .shell("id -u; wc -l </proc/self/uid_map; touch /data/made; chown 7:8 /data/made");
    bundle.write();
    assert_eq!(rootless.run(&["run", case.id()]).ok(), "0\n2\n");
    assert_eq!(owner(&data.join("made")), (FIRST + 106, FIRST + 107));

    let others = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    bundle.set("/linux/uidMappings", others).write();
    let refused = rootless.run(&["run", case.id()]).stderr;
    let expected = "linux.uidMappings: the 1 ids from 0 aren't all this user's";
    assert!(refused.contains(expected), "{refused}");
}

/// Without ids that the user was given.
fn with_one_id(case: &Case) {
    let rootless = Rootless::new(case);
    for file in ["subuid", "subgid"] {
        fs::write(case.directory().join("etc").join(file), "").unwrap();
    }
    let data = rootless.data();
    let bundle = rootless
        .bundle()
        .mount("/data", "bind", data.to_str().unwrap(), &["rbind"])
        .shell("id -u; touch /data/made; exit 5");
    bundle.write();
    assert_eq!(rootless.run(&["run", case.id()]).expect(5), "0\n");
    assert_eq!(owner(&data.join("made")), (ID, ID));
}

fn owners_of_files(case: &Case) {
    let rootless = Rootless::new(case);
    let data = rootless.data();
    fs::write(data.join("roots"), "").unwrap();
    fs::write(data.join("given"), "").unwrap();
    lchown(data.join("given"), Some(FIRST + 4), Some(FIRST + 5)).unwrap();
    let bundle = ["bounding", "effective", "permitted"]
        .iter()
        .fold(rootless.bundle(), |bundle, set| {
            bundle.push(&format!("/process/capabilities/{set}"), "CAP_CHOWN")
        })
        .mount("/data", "bind", data.to_str().unwrap(), &["rbind"])
        .shell(
            "cd /data; stat -c '%u %g' . roots given
             touch made other; chown 7:8 other; chown 0 roots 2>/dev/null || echo refused",
        );
    bundle.write();
    let output = rootless.run(&["run", case.id()]).ok();
    assert_eq!(output, "0 0\n65534 65534\n5 6\nrefused\n");
    assert_eq!(owner(&data.join("made")), (ID, ID));
    assert_eq!(owner(&data.join("other")), (FIRST + 6, FIRST + 7));
    assert_eq!(owner(&data.join("roots")), (0, 0));
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

/// What works on the guest's memory has no right over the user's files, processes or namespaces.
fn its_processes_are_nobodys(case: &Case) {
    let rootless = Rootless::new(case);
    let bundle = rootless.bundle().args(["sleep", "1000"]);
    rootless.leave(&[], &bundle);
    let sandbox = with_role(case.id(), Role::Sandbox)[0];
    let mut found = with_role(case.id(), Role::Monitor);
    found.extend(with_role(case.id(), Role::Qemu));
    assert!(!found.is_empty());
    for pid in found {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().split_whitespace().collect::<Vec<_>>()
        };
        for kind in ["Uid:", "Gid:"] {
            let ids = field(kind);
            let id: u32 = ids[0].parse().unwrap();
            // One of the last that the user was given.
            assert!((FIRST + 64000..FIRST + 65536).contains(&id), "{status}");
            assert!(ids.iter().all(|other| other == &ids[0]), "{status}");
        }
        assert!(field("Groups:").is_empty(), "{status}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), ["0000000000000000"], "{set} {status}");
        }
        assert_eq!(field("NoNewPrivs:"), ["1"]);
        assert_ne!(namespace(pid), namespace(sandbox));
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
        assert_eq!(map, "", "no id is mapped");
    }
    rootless.run(&["delete", "--force", case.id()]).ok();
}

fn namespace(pid: Pid) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/user")).unwrap()
}
