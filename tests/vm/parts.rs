//! One of a VM's processes is killed while a command works: the command ends, the container's end is
//! known, and nothing is left once it has been deleted.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nacre_tests::Case;
use nacre_tests::vm::{self, Role};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

nacre_tests::tests![
    the_sandbox_is_killed,
    the_monitor_is_killed,
    the_file_server_is_killed,
    the_stand_in_is_killed,
];

/// How often a process is killed at each command; `NACRE_KILLS` overrides it.
const KILLS: u32 = 2;

/// The same on KVM, which may be emulated and slow then.
const KILLS_ON_KVM: u32 = 1;

/// How long a command may take on a busy machine once a process it needs is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Random numbers from a seed (splitmix64).
struct Random(u64);

impl Random {
    /// Takes the seed from `NACRE_SEED`, or the clock.
    fn new() -> Self {
        let named = std::env::var("NACRE_SEED").ok();
        let named = named.map(|seed| seed.parse().expect("NACRE_SEED"));
        let clock = || {
            let time = std::time::UNIX_EPOCH.elapsed().unwrap();
            time.as_nanos() as u64
        };
        Self(named.unwrap_or_else(clock))
    }

    /// Returns a part of a duration.
    fn part_of(&mut self, whole: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        whole.mul_f64((mixed >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// Makes a command of this test without streams.
fn command(case: &Case, words: &[&str]) -> Command {
    let mut command = case.nacre();
    let null = Stdio::null;
    command
        .args(words)
        .stdin(null())
        .stdout(null())
        .stderr(null());
    command
}

/// Runs a command that nothing disturbs; returns how long it took.
#[track_caller]
fn run(case: &Case, words: &[&str]) -> Duration {
    let begin = Instant::now();
    let status = command(case, words).status().unwrap();
    assert!(status.success(), "{words:?}: {status}");
    begin.elapsed()
}

/// Runs a command, kills the process with this role at that moment, or once there is one, and returns
/// whether the command succeeded. Fails if it doesn't end.
#[track_caller]
fn disturbed(case: &Case, words: &[&str], role: Role, moment: Duration, what: &str) -> bool {
    let mut child = command(case, words).spawn().unwrap();
    sleep(moment);
    let end = Instant::now() + PATIENCE;
    let mut is_killed = false;
    loop {
        let status = child.try_wait().unwrap();
        if !is_killed {
            for pid in vm::with_role(case.id(), role) {
                // It may have ended meanwhile.
                is_killed |= kill(pid, Signal::SIGKILL).is_ok();
            }
        }
        if let Some(status) = status {
            return status.success();
        }
        assert!(Instant::now() < end, "{what}: {words:?} doesn't end");
        sleep(Duration::from_millis(2));
    }
}

/// A command, and what comes before it.
struct Stage {
    name: &'static str,
    before: &'static [&'static str],
    works: &'static [&'static str],
}

const CREATE: &[&str] = &["create", "--bundle", "BUNDLE", "ID"];
const RUN: &[&str] = &["run", "--detach", "--bundle", "BUNDLE", "ID"];

const STAGES: [Stage; 5] = [
    Stage {
        name: "create",
        before: &[],
        works: CREATE,
    },
    Stage {
        name: "start",
        before: CREATE,
        works: &["start", "ID"],
    },
    Stage {
        name: "exec",
        before: RUN,
        works: &["exec", "ID", "sleep", "0.2"],
    },
    Stage {
        name: "pause",
        before: RUN,
        works: &["pause", "ID"],
    },
    Stage {
        name: "delete",
        before: RUN,
        works: &["delete", "--force", "ID"],
    },
];

/// Kills the process with this role while each command works.
fn at_each_command(case: &Case, role: Role) {
    let bundle = case.busybox().args(["sleep", "1000"]);
    let bundle = bundle.write().to_str().unwrap();
    let kills = std::env::var("NACRE_KILLS").ok();
    let default = if case.is_emulated() {
        KILLS
    } else {
        KILLS_ON_KVM
    };
    let kills = kills.map_or(default, |kills| kills.parse().expect("NACRE_KILLS"));
    let mut random = Random::new();
    let put = |words: &[&'static str]| -> Vec<String> {
        let put = |word: &&str| match *word {
            "BUNDLE" => bundle.to_owned(),
            "ID" => case.id().to_owned(),
            word => word.to_owned(),
        };
        words.iter().map(put).collect()
    };
    for stage in STAGES {
        let name = stage.name;
        let works = put(stage.works);
        let works: Vec<&str> = works.iter().map(String::as_str).collect();
        let before = put(stage.before);
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let prepare = || {
            if !before.is_empty() {
                run(case, &before);
            }
        };
        prepare();
        let took = run(case, &works);
        let _ = command(case, &["delete", "--force", case.id()]).status();
        for _ in 0..kills {
            let seed = random.0;
            let moment = random.part_of(took);
            let what = format!("{role:?} at {name} after {moment:?} (seed {seed})");
            prepare();
            let succeeded = disturbed(case, &works, role, moment, &what);
            is_told(case, name, succeeded, &what);
            let removed = case.command(&["delete", "--force", case.id()]);
            assert_eq!(removed.status(), Some(0), "{what}: {}", removed.stderr);
            case.expect_nothing(&what);
        }
    }
}

/// Fails unless the container, if there still is one, comes to be stopped with a reason.
#[track_caller]
fn is_told(case: &Case, name: &str, succeeded: bool, what: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let state = case.command(&["state", case.id()]);
        if state.status() != Some(0) {
            // It was never created, or has been deleted.
            assert!(
                !succeeded || name == "delete",
                "{what}: {name} succeeded, but there is no container: {}",
                state.stderr
            );
            return;
        }
        let state: Value = serde_json::from_str(&state.text()).unwrap();
        if state["status"] == "stopped" {
            assert!(state["failure"].is_string(), "{what}: {state}");
            return;
        }
        assert!(Instant::now() < end, "{what}: {state}");
        sleep(Duration::from_millis(20));
    }
}

fn the_sandbox_is_killed(case: &Case) {
    at_each_command(case, Role::Sandbox);
}

fn the_monitor_is_killed(case: &Case) {
    at_each_command(case, Role::Monitor);
}

fn the_file_server_is_killed(case: &Case) {
    at_each_command(case, Role::FileServer);
}

fn the_stand_in_is_killed(case: &Case) {
    at_each_command(case, Role::StandIn);
}
