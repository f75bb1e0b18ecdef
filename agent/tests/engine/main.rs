//! Containers on this host's kernel, as root.
//!
//! The engine forks, so everything here runs in one thread, one test after the other. A test
//! that leaves a process, a cgroup, a mount or a descriptor behind fails.

/// Lists the tests of a module.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::Test] = &[$((stringify!($name), $name)),*];
    };
}

mod bundle;
mod cgroup;
mod cve;
mod devices;
mod exec;
mod hooks;
mod hostile;
mod leftovers;
mod lifecycle;
mod looked_at;
mod mount_namespaces;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod network;
mod owners;
mod process;
mod raced;
mod rights;
mod rootless;
mod scheduling;
mod seccomp;
mod terminal;
mod traced;
mod user_namespaces;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};

/// A test's name, and its function. It panics if the test fails; it may return why it can't be run
/// here.
type Test = (&'static str, fn() -> Result<(), Skipped>);

/// The reason why a test can't be run on this machine.
struct Skipped(&'static str);

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if let Some(part) = words.next().and_then(|word| hostile::part(&word)) {
        return part(words);
    }
    // The files in the tests' bundles are for other users, too.
    umask(Mode::from_bits_truncate(0o022));
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let lacking = lacking();
    let modules = [
        ("lifecycle", lifecycle::TESTS),
        ("process", process::TESTS),
        ("seccomp", seccomp::TESTS),
        ("scheduling", scheduling::TESTS),
        ("terminal", terminal::TESTS),
        ("hooks", hooks::TESTS),
        ("mounts", mounts::TESTS),
        ("mount_options", mount_options::TESTS),
        ("mount_namespaces", mount_namespaces::TESTS),
        ("owners", owners::TESTS),
        ("devices", devices::TESTS),
        ("namespaces", namespaces::TESTS),
        ("net_devices", net_devices::TESTS),
        ("network", network::TESTS),
        ("hostile", hostile::TESTS),
        ("looked_at", looked_at::TESTS),
        ("raced", raced::TESTS),
        ("rights", rights::TESTS),
        ("cve", cve::TESTS),
        ("cgroup", cgroup::TESTS),
        ("exec", exec::TESTS),
        ("rootless", rootless::TESTS),
        ("user_namespaces", user_namespaces::TESTS),
    ];
    let trials = modules
        .into_iter()
        .flat_map(|(module, tests)| tests.iter().map(move |test| trial(module, *test, lacking)))
        .collect();
    libtest_mimic::run(&arguments, among(trials)).exit_code()
}

/// Returns the tests whose names begin with one of the words in `NACRE_TESTS_AMONG`, if that is set,
/// as the behaviour tests do.
fn among(mut trials: Vec<Trial>) -> Vec<Trial> {
    let Ok(words) = std::env::var("NACRE_TESTS_AMONG") else {
        return trials;
    };
    let words: Vec<&str> = words.split_whitespace().collect();
    for word in &words {
        assert!(
            trials.iter().any(|t| t.name().starts_with(word)),
            "no {word}"
        );
    }
    trials.retain(|trial| words.iter().any(|word| trial.name().starts_with(word)));
    trials
}

/// Returns what keeps all tests from being run here.
fn lacking() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root");
    }
    if !Path::new("/bin/busybox").exists() {
        return Some("it needs /bin/busybox (Debian's busybox-static)");
    }
    match share_mounts() {
        Ok(()) => None,
        Err(_) => Some("this root may make no mounts"),
    }
}

/// Makes mounts propagate as on a host with systemd, so that a mount that should have stayed in a
/// container, or an unmount, is seen. This is done in a mount namespace of our own, lest it do
/// harm.
fn share_mounts() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    for flags in [MsFlags::MS_SLAVE, MsFlags::MS_SHARED] {
        let flags = flags | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

fn trial(module: &str, (name, run): Test, lacking: Option<&'static str>) -> Trial {
    Trial::ignorable_test(format!("{module}::{name}"), move || {
        let skip = |reason: &str| Completion::ignored_with(reason.to_owned());
        if let Some(reason) = lacking {
            return Ok(skip(reason));
        }
        let before = leftovers::now();
        let result = catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Failed::from(words.unwrap_or_default())
        })?;
        let left = leftovers::since(&before);
        if !left.is_empty() {
            return Err(format!("left behind:\n{}", left.join("\n")).into());
        }
        Ok(match result {
            Ok(()) => Completion::Completed,
            Err(Skipped(reason)) => skip(reason),
        })
    })
}
