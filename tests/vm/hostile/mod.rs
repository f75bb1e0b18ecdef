//! A guest that does everything wrong: nacre boots `tests/hostile-guest/` in place of its kernel, again
//! and again, each time from another seed. From outside, what the VM's processes use stays within the
//! bounds of docs/threat-model.md, nothing but the share changes, and commands are answered.

mod canary;
mod given;
mod used;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nacre_tests::mounts::Mounts;
use nacre_tests::place::in_testbed;
use nacre_tests::{Case, leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::canary::{Canary, described};
use self::given::{bundle, configure, fill};
use self::used::Used;
use super::cgroup::MIB;

nacre_tests::tests![a_hostile_guest_stays_within_its_bounds];

/// How much memory a guest has: the least there can be.
const MEMORY: u64 = 64 * MIB;

/// How long a guest rages at most before the next one gets its turn.
const LONGEST_LIFE: Duration = Duration::from_secs(12);

/// What a guest begins with decides the last two bits of its seed (`Mood` in
/// `tests/hostile-guest/src/control.rs`): the container is created and started, or it isn't.
const MOODS: u64 = 4;
const PATIENT: u64 = 0;

/// How long a command may take while the guest rages. In the testbed all of this is slow.
const COMMAND: Duration = Duration::from_secs(60);

/// What a VM may take besides its memory, as `overhead-memory` in docs/configuration.md.
const OVERHEAD: u64 = 64 * MIB;
const QEMUS_OVERHEAD: u64 = 256 * MIB;

/// One file of the host for every 4 KiB of the guest's memory; connections, devices and the rest have
/// 1024 (`RESERVED_FILES`). The stand-in and QEMU have a few of their own.
const DESCRIPTORS: u64 = MEMORY / 4096 + 1024 + 256;

/// A thread for each device, stream and vCPU, and those of QEMU. The cgroup's limit is 256.
const THREADS: u64 = 64;

/// The rates of the log and of `console-log`: so much at once, then so much a second.
const AT_ONCE: u64 = MIB;
const LOGGED_A_SECOND: u64 = 1000;
const SHOWN_A_SECOND: u64 = 10_000;
/// What comes besides: a line that began within the allowance, and the errors that processes end with.
const LINE: u64 = 32 << 10;

/// How much of a processor a VM takes whose vCPUs are stopped, in hundredths: its devices do nothing.
const CPU_AT_REST: u64 = 40;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

fn a_hostile_guest_stays_within_its_bounds(case: &Case) {
    let default = if in_testbed() { 40 } else { 20 };
    let time = Duration::from_secs(number("NACRE_HOSTILE_SECONDS").unwrap_or(default));
    // Without a seed it begins with a guest whose container runs.
    let first = number("NACRE_HOSTILE_SEED").unwrap_or_else(|| random() / MOODS * MOODS + PATIENT);
    let canary = Canary::make(case);
    let began = Instant::now();
    for seed in first.. {
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() && seed > first {
            break;
        }
        let longest = LONGEST_LIFE.min(time / MOODS as u32);
        Life::begin(case, &canary, seed).rage(longest.min(left).max(Duration::from_secs(1)));
    }
}

fn random() -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    // Of a size that is typed easily.
    (now.as_nanos() / 1000) as u64 % 1_000_000_000
}

/// One guest, from its boot to its end.
struct Life<'a> {
    case: &'a Case,
    canary: &'a Canary,
    seed: u64,
    share: PathBuf,
    /// What is mounted for it: it is gone with it.
    _mounts: Mounts,
    fixed: BTreeMap<PathBuf, String>,
    run: Child,
    began: Instant,
    /// The lengths of the log before it.
    logged: u64,
    commands: u64,
}

impl<'a> Life<'a> {
    fn begin(case: &'a Case, canary: &'a Canary, seed: u64) -> Self {
        let share = case.directory().join("share");
        let mut mounts = Mounts::default();
        mounts.mount_tmpfs(&share, MEMORY);
        fill(&share, &canary.directory);
        let fixed = described(&share.join("fixed"));
        configure(case, &canary.directory, seed);
        let mut command = case.nacre();
        command
            .args(["run", "--bundle"])
            .arg(bundle(case, &share, seed).write())
            .arg(case.id());
        let log = File::create(case.directory().join("stderr")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Self {
            case,
            canary,
            seed,
            share,
            _mounts: mounts,
            fixed,
            logged: length(&case.log()),
            run: command.spawn().unwrap(),
            began: Instant::now(),
            commands: 1,
        }
    }

    /// Fails unless it is so, with what is needed to see it again.
    #[track_caller]
    fn holds(&self, is_so: bool, what: &str) {
        if !is_so {
            let seed = self.seed;
            let last = end_of(&fs::read(self.console()).unwrap_or_default(), 600);
            panic!(
                "{what}\nseed {seed}; NACRE_HOSTILE_SEED={seed} begins with it. {}\nconsole: …{last}",
                self.message(),
            );
        }
    }

    fn is_running(&mut self) -> bool {
        self.run.try_wait().unwrap().is_none()
    }

    fn console(&self) -> PathBuf {
        self.case.directory().join("console")
    }

    /// Returns the end of what `nacre run` has printed, and its workload before.
    fn message(&self) -> String {
        let printed = fs::read(self.case.directory().join("stderr")).unwrap();
        end_of(&printed, 4000)
    }

    /// Lets it rage for so long, and ends it.
    fn rage(mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && self.is_running() {
            self.is_within_bounds();
            sleep(Duration::from_millis(200));
        }
        if self.is_running() {
            let status = self.status();
            if status == "running" && self.seed % 8 == PATIENT {
                self.is_quiet_while_paused();
            }
            self.is_within_bounds();
        }
        self.end();
        self.is_in_order();
    }

    /// Runs a command, which must be answered in time. Returns its output, or `None` if it failed.
    fn ask(&mut self, words: &[&str]) -> Option<String> {
        self.commands += 1;
        let began = Instant::now();
        let mut command = self.case.nacre();
        command.args(words);
        let mut asked = self.case.spawn(command);
        let ends = asked.ends_within(COMMAND);
        if !ends {
            asked.kill();
        }
        let outcome = asked.finish();
        self.holds(
            ends,
            &format!("no answer to {words:?} after {:?}", began.elapsed()),
        );
        (outcome.status() == Some(0)).then(|| outcome.text())
    }

    fn status(&mut self) -> String {
        let id = self.case.id();
        let state = self.ask(&["state", id]).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
        state["status"].as_str().unwrap_or("gone").to_owned()
    }

    fn is_within_bounds(&self) {
        let used = Used::by(self.case);
        let overhead = if self.case.is_emulated() {
            QEMUS_OVERHEAD
        } else {
            OVERHEAD
        };
        let is_so =
            used.memory <= overhead && used.descriptors <= DESCRIPTORS && used.threads <= THREADS;
        self.holds(is_so, &format!("the VM's processes use too much: {used:?}"));
        let seconds = self.began.elapsed().as_secs() + 1;
        let logged = length(&self.case.log()).saturating_sub(self.logged);
        let allowed = (AT_ONCE + LOGGED_A_SECOND * seconds) * 2 + LINE * (1 + self.commands);
        self.holds(
            logged <= allowed,
            &format!("{logged} bytes of log in {seconds} s"),
        );
        let shown = length(&self.console());
        let allowed = AT_ONCE + SHOWN_A_SECOND * seconds + LINE;
        self.holds(
            shown <= allowed,
            &format!("{shown} bytes of console in {seconds} s"),
        );
    }

    /// Its devices stop soon after its vCPUs.
    fn is_quiet_while_paused(&mut self) {
        let id = self.case.id();
        if self.ask(&["pause", id]).is_none() {
            // It has ended just now, or stops seldom enough.
            return;
        }
        let end = Instant::now() + COMMAND;
        let mut quiet = false;
        while !quiet && Instant::now() < end {
            let (before, began) = (Used::by(self.case).ticks, Instant::now());
            sleep(Duration::from_secs(1));
            let ticks = Used::by(self.case).ticks.saturating_sub(before);
            // A tick is a hundredth of a second.
            quiet = ticks * 1000 < CPU_AT_REST * began.elapsed().as_millis() as u64;
        }
        self.holds(quiet, "its devices go on working while it is paused");
        self.ask(&["resume", id]);
    }

    fn end(&mut self) {
        let id = self.case.id();
        let status = self.status();
        if status == "running" || status == "paused" {
            self.ask(&["kill", id, "KILL"]);
        } else if self.is_running() {
            // It may end just now.
            let _ = kill(Pid::from_raw(self.run.id() as i32), Signal::SIGTERM);
        }
        let end = Instant::now() + COMMAND;
        while self.is_running() {
            self.holds(Instant::now() < end, "it doesn't end");
            sleep(Duration::from_millis(50));
        }
        if self.status() != "gone" {
            self.ask(&["delete", "--force", id]);
        }
        let left = leftovers::settled_processes(id, Duration::from_secs(20));
        self.holds(left.is_empty(), &format!("left behind: {left:?}"));
        let left = leftovers::files(&self.case.state());
        self.holds(left.is_empty(), &format!("left behind: {left:?}"));
        let left = leftovers::cgroups_named(id);
        self.holds(left.is_empty(), &format!("left behind: {left:?}"));
    }

    /// What has come of it.
    fn is_in_order(&mut self) {
        let console = fs::read(self.console()).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        self.holds(console.contains("hostile guest: seed"), "it hasn't booted");
        self.holds(
            !console.contains("hostile guest: bug"),
            "it has a fault itself",
        );
        let log = fs::read(self.case.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log[self.logged as usize..]).into_owned();
        for sign in ["bug:", "panicked", "sandbox process was killed"] {
            let is_in = self.message().contains(sign) || log.contains(sign);
            self.holds(!is_in, &format!("{sign:?} in what nacre says: {log}"));
        }
        let status = self.run.wait().unwrap();
        self.holds(status.code().is_some(), &format!("{status}"));
        self.holds(
            described(&self.canary.directory) == self.canary.before,
            "the canary has changed",
        );
        self.holds(
            described(&self.share.join("fixed")) == self.fixed,
            "what is read-only has changed",
        );
        if self.seed % MOODS == PATIENT {
            self.share_is_as_allowed();
        }
        let _ = fs::remove_file(self.console());
    }

    /// Once the container has been created, config.json holds for its files: no devices, no owners but
    /// its own, no set-id programs where the mount says so.
    fn share_is_as_allowed(&self) {
        for path in leftovers::walk(&self.share) {
            let data = fs::symlink_metadata(&path).unwrap();
            let kind = data.file_type();
            let is_device = kind.is_block_device() || kind.is_char_device() && data.rdev() != 0;
            self.holds(!is_device, &format!("a device: {}", path.display()));
            let is_own = data.uid() == 0 && data.gid() == 0;
            self.holds(is_own, &format!("another's file: {}", path.display()));
            let has_ids = data.is_file() && data.mode() & 0o6000 != 0;
            let is_free = !path.starts_with(self.share.join("volume"));
            self.holds(
                is_free || !has_ids,
                &format!("a set-id file: {}", path.display()),
            );
        }
    }
}

impl Drop for Life<'_> {
    /// After a failure nothing of it is left either.
    fn drop(&mut self) {
        if self.is_running() {
            let mut command = self.case.nacre();
            command.args(["delete", "--force", self.case.id()]);
            // What it has to say is of no interest beside the failure.
            let _ = command.stderr(Stdio::null()).status();
            let _ = self.run.kill();
            let _ = self.run.wait();
        }
    }
}

/// Returns the last bytes as text, without what isn't.
fn end_of(bytes: &[u8], most: usize) -> String {
    let end = &bytes[bytes.len().saturating_sub(most)..];
    let is_text = |byte: &&u8| byte.is_ascii_graphic() || b" \n".contains(byte);
    end.iter()
        .filter(is_text)
        .map(|byte| char::from(*byte))
        .collect()
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |data| data.len())
}
