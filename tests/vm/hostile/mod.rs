//! A guest that does everything wrong: nacre boots `tests/hostile-guest/` in place of its kernel, again
//! and again, each time from another seed. From outside, what the VM's processes use stays within the
//! bounds of docs/threat-model.md, nothing but the share changes, and commands are answered.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nacre_agent::protocol::{CONTROL_PORT, VERSION};
use nacre_tests::mounts::Mounts;
use nacre_tests::place::in_testbed;
use nacre_tests::vm::{Role, processes};
use nacre_tests::{Bundle, Case, leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// A directory beside the share, and what all in it was like.
struct Canary {
    directory: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    fn make(case: &Case) -> Canary {
        let directory = case.directory().join("canary");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "untouched\n").unwrap();
        fs::write(directory.join("secret"), "untouched too\n").unwrap();
        fs::set_permissions(directory.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::create_dir(directory.join("empty")).unwrap();
        symlink("file", directory.join("link")).unwrap();
        let before = described(&directory);
        Canary { directory, before }
    }
}

/// Describes a directory and all below it: contents, owners, modes and times.
fn described(directory: &Path) -> BTreeMap<PathBuf, String> {
    let describe = |path: &Path| {
        let data = fs::symlink_metadata(path).unwrap();
        let content = if data.is_file() {
            fs::read_to_string(path).ok()
        } else {
            None
        };
        format!(
            "mode {:o}, owner {}:{}, {} links, device {:x}, {} bytes, modified {}.{}, changed {}.{}: {content:?}",
            data.mode(),
            data.uid(),
            data.gid(),
            data.nlink(),
            data.rdev(),
            data.size(),
            data.mtime(),
            data.mtime_nsec(),
            data.ctime(),
            data.ctime_nsec(),
        )
    };
    let mut all = BTreeMap::from([(directory.to_owned(), describe(directory))]);
    all.extend(leftovers::walk(directory).into_iter().map(|path| {
        let text = describe(&path);
        (path, text)
    }));
    all
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

/// What a VM's processes, the sandbox process and all its descendants, use together.
#[derive(Debug, Default)]
struct Used {
    /// Bytes of resident memory of their own, and of files: the guest's memory is neither.
    memory: u64,
    descriptors: u64,
    threads: u64,
    /// The CPU time, in hundredths of a second.
    ticks: u64,
}

impl Used {
    fn by(case: &Case) -> Used {
        let mut used = Used::default();
        for pid in of_vm(case) {
            let path = PathBuf::from(format!("/proc/{pid}"));
            // It may have ended.
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                let number =
                    line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
                number
                    .and_then(|number| number.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            used.memory += (field("RssAnon") + field("RssFile")) << 10;
            used.threads += field("Threads");
            used.descriptors += fs::read_dir(path.join("fd")).map_or(0, Iterator::count) as u64;
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            let times = stat
                .rsplit_once(") ")
                .map_or("", |(_, rest)| rest)
                .split(' ')
                .skip(11);
            used.ticks += times
                .take(2)
                .filter_map(|time| time.parse::<u64>().ok())
                .sum::<u64>();
        }
        used
    }
}

/// Returns the VM's processes: all that aren't commands, and their descendants.
fn of_vm(case: &Case) -> Vec<Pid> {
    let known = processes(case.id()).into_iter();
    let inside = known.filter(|(_, role)| *role != Role::Outside);
    let mut found: Vec<i32> = inside.map(|(pid, _)| pid.as_raw()).collect();
    let mut children = HashMap::<i32, Vec<i32>>::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        for child in children.get(&pid).into_iter().flatten() {
            if !found.contains(child) {
                found.push(*child);
            }
        }
        next += 1;
    }
    found.into_iter().map(Pid::from_raw).collect()
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

/// Makes what the guest is shown, with ways out of it.
fn fill(share: &Path, canary: &Path) {
    for directory in [
        "rootfs/dev",
        "rootfs/proc",
        "rootfs/sys",
        "rootfs/volume",
        "rootfs/fixed",
        "volume",
        "fixed",
    ] {
        fs::create_dir_all(share.join(directory)).unwrap();
    }
    for directory in ["rootfs", "volume", "fixed"].map(|name| share.join(name)) {
        fs::write(directory.join("a"), "a file\n").unwrap();
        symlink(canary, directory.join("out")).unwrap();
        symlink(canary.join("file"), directory.join("out-file")).unwrap();
        symlink("../../canary/file", directory.join("up")).unwrap();
    }
}

/// Has nacre boot the hostile guest, with its words in the agent's place.
fn configure(case: &Case, canary: &Path, seed: u64) {
    let words = case.directory().join("words");
    let outside = canary.join("file");
    let mut text = format!(
        "hostile guest's words\nseed={seed}\nport={CONTROL_PORT}\nversion={VERSION}\noutside={}\n",
        outside.display(),
    );
    if let Ok(only) = std::env::var("NACRE_HOSTILE_ONLY") {
        text += &format!("only={only}\n");
    }
    fs::write(&words, text).unwrap();
    let configuration = format!(
        "[vm]\nkernel = {:?}\nagent = {words:?}\nboot-timeout = 600\nconsole-log = {:?}\ndisk-directory = {:?}\n",
        std::env::var("NACRE_HOSTILE_GUEST").unwrap(),
        case.directory().join("console"),
        std::env::temp_dir(),
    );
    fs::write(case.configuration(), configuration).unwrap();
}

/// Each second of those whose container runs has a root that is an overlay with a disk.
fn bundle(case: &Case, share: &Path, seed: u64) -> Bundle {
    let volume = |bundle: Bundle, name: &str, options: &[&str]| {
        let source = share.join(name);
        bundle.mount(
            &format!("/{name}"),
            "bind",
            source.to_str().unwrap(),
            options,
        )
    };
    let bundle = Bundle::read_only(case.directory(), &share.join("rootfs"))
        .set("/root/readonly", false)
        .annotation("dev.nacre.vm.memory", &MEMORY.to_string());
    let bundle = volume(bundle, "volume", &["rbind", "rw", "nosuid", "nodev"]);
    let bundle = volume(bundle, "fixed", &["rbind", "ro"]);
    if seed / MOODS % 2 == 1 {
        bundle
            .annotation("dev.nacre.vm.rootfs", "overlay")
            .annotation("dev.nacre.vm.rootfs.disk", "32M")
    } else {
        bundle
    }
}
