//! With too little of what the host has, a container runs or is refused, and leaves nothing: each
//! amount is tried, from next to nothing on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre_tests::nacre::Outcome;
use nacre_tests::{Case, Isolation};
use nix::mount::{MsFlags, mount, umount};

nacre_tests::tests![
    few_descriptors,
    few_processes,
    little_memory,
    little_space,
    few_files,
];

/// The status of a container that ran, which no error of nacre's has.
const RAN: i32 = 7;

/// Amounts from `first` to `last`, each half as much again.
fn amounts(first: u64, last: u64) -> Vec<u64> {
    let next = |amount: &u64| Some((amount * 3).div_ceil(2));
    let all = std::iter::successors(Some(first), next);
    all.take_while(|amount| *amount <= last).collect()
}

/// Runs a container with each amount: it ends with its own status, or with an error that is said,
/// and nothing of it is left.
#[track_caller]
fn run_with(case: &Case, amounts: &[u64], run: impl Fn(u64) -> Outcome) {
    let mut ran = None;
    for &amount in amounts {
        let outcome = run(amount);
        match outcome.status() {
            Some(RAN) => {
                assert_eq!(outcome.text(), "whole\n", "with {amount}: {outcome:?}");
                ran = Some(amount);
            }
            // It was killed for want of memory, and whoever sees that deletes what there is.
            None | Some(137) => {
                case.command(&["delete", "--force", case.id()]);
            }
            Some(status) => assert!(
                status != 0 && !outcome.stderr.is_empty(),
                "with {amount}: {outcome:?}"
            ),
        }
        case.expect_nothing(&format!("with {amount}"));
    }
    assert!(ran.is_some(), "none of {amounts:?} is enough");
}

/// Returns `nacre run` of a container that says that it ran.
fn nacre_run(case: &Case) -> Command {
    // The container's own limits may be more than nacre is left with.
    let bundle = case
        .busybox()
        .set("/process/rlimits", serde_json::json!([]))
        .shell(&format!("echo whole; exit {RAN}"));
    let mut command = case.nacre();
    command
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    command
}

/// Makes a command run another one, after words of its own.
fn by(case: &Case, words: &[&str], then: &Command) -> Command {
    let mut command = case.mark(Command::new(words[0]));
    command
        .args(&words[1..])
        .arg(then.get_program())
        .args(then.get_args());
    command
}

fn few_descriptors(case: &Case) {
    // A machine needs 3072 of them, which is looked at first.
    let amounts = match case.isolation() {
        Isolation::Process => amounts(3, 200),
        Isolation::Vm => vec![3, 5, 8, 13, 3072],
    };
    let nacre = nacre_run(case);
    run_with(case, &amounts, |amount| {
        let limit = format!("--nofile={amount}:{amount}");
        let words = [
            "setpriv",
            "--bounding-set=-sys_resource",
            "--inh-caps=-sys_resource",
            "prlimit",
            &limit,
        ];
        case.spawn(by(case, &words, &nacre)).finish()
    });
}

/// A cgroup of nacre's caller, which nothing of the container's is looked for in.
struct CallersCgroup(PathBuf);

impl CallersCgroup {
    fn new(case: &Case, controller: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let first = root.join(controller);
        let root = if first.is_dir() {
            first
        } else {
            // Without the controller the file of the limit is missing.
            let _ = fs::write(
                root.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
            root.to_owned()
        };
        let path = root.join(format!("nacre-starved-{}-{controller}", std::process::id()));
        if let Err(e) = fs::create_dir(&path) {
            case.ignore(&format!("no cgroup can be made here: {e}"));
        }
        Self(path)
    }

    /// Sets one of the files, by its names in the two versions.
    fn limit(&self, case: &Case, names: [&str; 2], amount: u64) {
        let Some(file) = names.iter().map(|n| self.0.join(n)).find(|f| f.exists()) else {
            case.ignore(&format!("no {} here", names[0]));
        };
        fs::write(file, amount.to_string()).unwrap();
    }

    fn run(&self, case: &Case, nacre: &Command) -> Outcome {
        let enter = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", self.0.display());
        case.spawn(by(case, &["sh", "-c", &enter, "sh"], nacre))
            .finish()
    }
}

impl Drop for CallersCgroup {
    fn drop(&mut self) {
        // A killed process may still be on its way out; the run's last check finds what stays.
        let _ = fs::remove_dir(&self.0);
    }
}

fn few_processes(case: &Case) {
    let cgroup = CallersCgroup::new(case, "pids");
    let nacre = nacre_run(case);
    // The container's cgroup is below the caller's, and a VM's processes and threads are in it.
    let amounts = match case.isolation() {
        Isolation::Process => (1..=12).collect(),
        Isolation::Vm => amounts(1, 64),
    };
    run_with(case, &amounts, |amount| {
        cgroup.limit(case, ["pids.max"; 2], amount);
        cgroup.run(case, &nacre)
    });
}

fn little_memory(case: &Case) {
    let cgroup = CallersCgroup::new(case, "memory");
    let nacre = nacre_run(case);
    let amounts = match case.isolation() {
        Isolation::Process => amounts(128 << 10, 32 << 20),
        Isolation::Vm => (18..=30).map(|bits| 1 << bits).collect(),
    };
    run_with(case, &amounts, |amount| {
        cgroup.limit(case, ["memory.max", "memory.limit_in_bytes"], amount);
        cgroup.run(case, &nacre)
    });
}

/// Runs containers with a state directory in a file system of its own with such an option.
fn run_with_state(case: &Case, amounts: &[u64], option: impl Fn(u64) -> String) {
    let nacre = nacre_run(case);
    let state = case.state();
    run_with(case, amounts, |amount| {
        let options = option(amount);
        let none = MsFlags::empty();
        mount(Some("tmpfs"), &state, Some("tmpfs"), none, Some(&*options)).unwrap();
        let outcome = case.spawn(by(case, &["env"], &nacre)).finish();
        let left = fs::read_dir(&state).unwrap().count();
        assert_eq!(left, 0, "with {amount}: {outcome:?}");
        umount(&state).unwrap();
        outcome
    });
}

fn little_space(case: &Case) {
    let pages: Vec<u64> = (1..=8).collect();
    run_with_state(case, &pages, |pages| format!("size={}k", 4 * pages));
}

fn few_files(case: &Case) {
    // The directory itself is one.
    let files: Vec<u64> = (1..=12).collect();
    run_with_state(case, &files, |files| format!("nr_inodes={files}"));
}
