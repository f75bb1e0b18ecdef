//! Containers of an ordinary user, who calls `nacre` itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre_tests::user::{ID, User};
use nacre_tests::{Case, Outcome, bundle, leftovers};
use serde_json::{Value, json};

nacre_tests::tests![what_spec_writes, a_life, the_state_of_a_user_namespace,];

fn what_spec_writes(case: &Case) {
    let directory = case.directory().to_str().unwrap();
    case.command(&["spec", "--rootless", "--bundle", directory])
        .ok();
    let config = config(case.directory());
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    let has = |kind: &str| namespaces.iter().any(|namespace| namespace["type"] == kind);
    assert!(has("user") && !has("network"));
    assert_eq!(config["linux"]["uidMappings"][0]["containerID"], 0);
    assert_eq!(config["linux"]["gidMappings"][0]["size"], 1);
}

fn config(bundle: &Path) -> Value {
    serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap()
}

/// Runs the user's commands, with a bundle in the user's directory.
struct Rootless<'a> {
    case: &'a Case,
    user: User<'a>,
}

impl<'a> Rootless<'a> {
    fn new(case: &'a Case) -> Self {
        let user = User::new(case);
        bundle::make_busybox(&user.home().join("rootfs"));
        user.give(&user.home());
        let rootless = Self { case, user };
        rootless.run(&["spec", "--rootless"]).ok();
        rootless
    }

    /// Sets the container's command.
    fn set_args(&self, args: &[&str]) {
        let home = self.user.home();
        let mut config = config(&home);
        config["process"]["args"] = json!(args);
        config["process"]["terminal"] = false.into();
        config["root"]["readonly"] = false.into();
        fs::write(home.join("config.json"), config.to_string()).unwrap();
    }

    fn run(&self, words: &[&str]) -> Outcome {
        self.by(&[], words)
    }

    /// Runs it through other programs.
    fn by(&self, before: &[&str], words: &[&str]) -> Outcome {
        self.case.spawn(self.command(before, words)).finish()
    }

    /// Runs it through other programs and leaves a container behind.
    #[track_caller]
    fn leave(&self, before: &[&str], words: &[&str]) {
        let status = self.case.leave(self.command(before, words));
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
}

fn a_life(case: &Case) {
    let rootless = Rootless::new(case);
    let script = "id -u; hostname; tr -s ' ' </proc/self/uid_map; echo $$; exit 5";
    rootless.set_args(&["sh", "-c", script]);
    let output = rootless.run(&["run", case.id()]).expect(5);
    let lines: Vec<&str> = output.lines().collect();
    let map = format!(" 0 {ID} 1");
    assert_eq!(
        (lines[0], lines[2], lines[3]),
        ("0", &*map, "1"),
        "{output}"
    );
    assert_eq!(rootless.run(&["list", "--quiet"]).ok(), "");

    rootless.set_args(&["sleep", "1000"]);
    rootless.leave(&[], &["run", "--detach", case.id()]);
    assert!(rootless.state().join(case.id()).is_dir());
    assert_eq!(rootless.run(&["exec", case.id(), "id", "-u"]).ok(), "0\n");
    let state: Value = serde_json::from_str(&rootless.run(&["state", case.id()]).ok()).unwrap();
    assert_eq!(state["status"], "running");
    rootless.run(&["kill", case.id(), "KILL"]).ok();
    rootless.run(&["delete", "--force", case.id()]).ok();
    assert!(leftovers::files(&rootless.state()).is_empty());
}

/// Its root counts as the user, unless the caller says that it has a user namespace of its own.
fn the_state_of_a_user_namespace(case: &Case) {
    let rootless = Rootless::new(case);
    let as_root = ["unshare", "--user", "--map-root-user"];
    // Written for the namespace's root, who has another id there.
    fs::remove_file(rootless.user.home().join("config.json")).unwrap();
    rootless.by(&as_root, &["spec", "--rootless"]).ok();
    rootless.set_args(&["true"]);
    rootless.leave(&as_root, &["create", case.id()]);
    assert!(rootless.state().join(case.id()).is_dir());
    assert_eq!(
        rootless.run(&["list", "--quiet"]).ok(),
        format!("{}\n", case.id())
    );
    rootless.run(&["delete", "--force", case.id()]).ok();
    let as_own_root = [&as_root[..], &["env", "USER=root"]].concat();
    let outcome = rootless.by(&as_own_root, &["create", case.id()]);
    assert!(outcome.stderr.contains("/run/nacre"), "{outcome:?}");
}
