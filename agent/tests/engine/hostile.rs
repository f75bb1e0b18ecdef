//! Malicious images and configurations.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};

use nacre_agent::container::{Container, ExecOptions, Options, config, protect_executable};
use nix::sys::stat::Mode;
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, leak, null_stdio, text};
use crate::cve;
use crate::exec;
use crate::raced;
use crate::rootless;

tests![
    cve_2019_5736_the_engines_program_cannot_be_overwritten,
    an_init_does_not_outlive_its_engine,
    links_do_not_lead_mounts_out,
    links_do_not_lead_devices_out,
    proc_is_not_covered,
    cve_2025_52881_labels_are_not_written_elsewhere,
    cve_2025_52881_labels_of_later_processes_are_not_written_elsewhere,
    cve_2024_21626_a_leaked_directory_is_no_cwd,
    a_passwd_that_blocks_is_not_waited_for,
];

/// The words on the command line of another process of a test.
pub(crate) type Words = std::iter::Skip<std::env::Args>;

/// What this program does as another process of a test: a function of the remaining words.
type Part = fn(Words) -> ExitCode;

/// Returns the part that a word on the command line stands for.
pub(crate) fn part(word: &str) -> Option<Part> {
    match word {
        "--run-protected" => Some(|bundle| {
            protect_executable().unwrap();
            run_and_leave(bundle)
        }),
        "--run-unprotected" => Some(run_and_leave),
        "--rootless" => Some(rootless::run_bundle),
        "--exec-protected" => Some(exec::exec_protected),
        "--exec-unprotected" => Some(exec::exec_and_leave),
        "--create" => Some(create_and_leave),
        "--attack" => Some(attack),
        "--exchange" => Some(cve::exchange),
        "--look" => Some(raced::look),
        _ => None,
    }
}

/// A process that works against the engine until this is dropped: this program in one of its
/// [parts](part).
pub(crate) struct Adversary(Child);

impl Adversary {
    pub(crate) fn start<const N: usize>(part: &str, paths: [&Path; N]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(part).arg(std::process::id().to_string());
        Adversary(command.args(paths).spawn().unwrap())
    }

    /// Returns whether the process that it is itself should go on: if the test is killed, it isn't
    /// dropped.
    pub(crate) fn is_wanted(words: &mut Words) -> impl Fn() -> bool + use<> {
        let test: u32 = words.next().unwrap().parse().unwrap();
        move || parent_id() == test
    }

    pub(crate) fn goes_on(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Adversary {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn create(mut words: Words) -> Container {
    let bundle = PathBuf::from(words.next().unwrap());
    let config = fs::read(bundle.join("config.json")).unwrap();
    let mut spec = config::load(&config).unwrap();
    config::resolve_paths(&mut spec, &bundle);
    let options = Options::new("unused", &bundle, null_stdio());
    // SAFETY: the test's other threads change nothing that the child needs; if it hangs, the test fails.
    unsafe { Container::create(&spec, options) }.unwrap()
}

/// Starts a container and leaves it running.
fn run_and_leave(words: Words) -> ExitCode {
    create(words).start().unwrap();
    ExitCode::SUCCESS
}

/// Creates a container, prints its init's pid, and ends.
fn create_and_leave(words: Words) -> ExitCode {
    println!("{}", create(words).pid());
    ExitCode::SUCCESS
}

/// Runs in the container: opens the engine's program, and tries to write to it, the last times when
/// it isn't running any more: then there is a file `/left`. [`result_of_attack`] waits for it.
fn attack(_: Words) -> ExitCode {
    let executable = fs::File::open("/proc/self/exe").unwrap();
    leak(&executable);
    let fd = executable.as_raw_fd();
    let script = format!(
        "left=0
         for i in $(seq 3000); do
             if echo overwritten > /proc/self/fd/{fd} || [ $left = 20 ]; then break; fi
             if [ -e /left ]; then left=$((left + 1)); fi
             sleep 0.02
         done 2> /result; echo done >> /result"
    );
    panic!("{}", Command::new("/bin/sh").args(["-c", &script]).exec());
}

/// Tells an [attack] that the engine has ended. Returns what it has to say, once it is done.
pub(crate) fn result_of_attack(bundle: &Bundle) -> String {
    let [left, result] = ["left", "result"].map(|name| bundle.at(name));
    fs::write(&left, "").unwrap();
    let read = || fs::read_to_string(&result).unwrap_or_default();
    wait_until(|| read().ends_with("done\n"));
    let said = read();
    for file in [left, result] {
        fs::remove_file(file).unwrap();
    }
    said
}

// CVE-2019-5736.
fn cve_2019_5736_the_engines_program_cannot_be_overwritten() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("");
    // It runs as a script's interpreter, which a check of the program alone would miss.
    fs::write(bundle.at("script"), "#!/proc/self/exe --attack\n").unwrap();
    fs::set_permissions(bundle.at("script"), fs::Permissions::from_mode(0o755)).unwrap();
    bundle.config["process"]["args"] = json!(["/script"]);
    let cgroup = format!("nacre-test-left-{}", std::process::id());
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{cgroup}"));
    let original = fs::read(std::env::current_exe().unwrap()).unwrap();
    for (part, overwritten) in [("--run-unprotected", true), ("--run-protected", false)] {
        let engine = bundle.beside("engine");
        fs::write(&engine, &original).unwrap();
        fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
        let run = Command::new(&engine).arg(part).arg(bundle.write()).status();
        assert!(run.unwrap().success());
        let result = result_of_attack(&bundle);
        remove_cgroup(&cgroup);
        assert_eq!(
            fs::read(&engine).unwrap() != original,
            overwritten,
            "{}",
            result
        );
        assert_eq!(result.contains("Read-only file system"), !overwritten);
    }
    Ok(())
}

fn an_init_does_not_outlive_its_engine() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("touch /started");
    let cgroup = format!("nacre-test-left-{}", std::process::id());
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{cgroup}"));
    let engine = std::env::current_exe().unwrap();
    let run = Command::new(engine)
        .arg("--create")
        .arg(bundle.write())
        .output();
    let pid = String::from_utf8(run.unwrap().stdout).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    // The process that inherits it may leave it a zombie for a while.
    wait_until(|| {
        fs::read_to_string(&stat).is_ok_and(|s| s.contains(") Z ")) || !Path::new(&stat).exists()
    });
    assert!(!bundle.at("started").exists());
    remove_cgroup(&cgroup);
    Ok(())
}

/// Removes a cgroup that an engine has left, once its processes have ended: on cgroup2, and in each
/// hierarchy of version 1.
fn remove_cgroup(name: &str) {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).unwrap().flatten();
    let mut tops: Vec<_> = hierarchies.map(|entry| entry.path()).collect();
    tops.push(top.to_owned());
    for top in tops {
        let left = top.join(name);
        wait_until(|| !left.exists() || fs::remove_dir(&left).is_ok());
    }
}

pub(crate) fn wait_until(is_so: impl Fn() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("it doesn't come about");
}

fn links_do_not_lead_mounts_out() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("cat /proc/self/mountinfo");
    let outside = bundle.beside("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, bundle.at("absolute")).unwrap();
    symlink("../outside", bundle.at("relative")).unwrap();
    for at in [
        "/absolute/a",
        "/relative/b",
        "/relative",
        "/../../outside/c",
    ] {
        bundle.mount(json!({"destination": at, "type": "tmpfs", "source": "t"}));
    }
    bundle.mount(
        json!({"destination": "/relative/file", "source": "/etc/passwd", "options": ["bind"]}),
    );
    let output = bundle.output();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    for at in [
        &format!("{}/a", text(&outside)),
        "/outside",
        "/outside/file",
    ] {
        assert!(
            output.lines().any(|l| l.split(' ').nth(4) == Some(at)),
            "{at}\n{output}"
        );
    }
    Ok(())
}

fn links_do_not_lead_devices_out() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    let outside = bundle.beside("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, bundle.at("dev")).unwrap();
    bundle.config["mounts"] = json!([]);
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/x/zero", "type": "c", "major": 1, "minor": 5}]);
    bundle.output();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    Ok(())
}

fn proc_is_not_covered() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    let fake = bundle.beside("fake");
    fs::create_dir(&fake).unwrap();
    symlink("/proc", bundle.at("link")).unwrap();
    for (at, words) in [
        ("/proc", "only a proc file system"),
        ("/proc/self", "it is inside of /proc"),
        ("/proc/sys/kernel", "it is inside of /proc"),
        ("/link/self/attr", "it is inside of /proc"),
    ] {
        let config = bundle.config.clone();
        bundle.mount(json!({"destination": at, "source": text(&fake), "options": ["bind"]}));
        let (message, _) = bundle.error();
        assert!(message.contains(words), "{message}");
        bundle.config = config;
    }
    // Through a link in /proc to another file, and what isn't on runc's list.
    fs::write(bundle.beside("file"), "").unwrap();
    for at in ["net/dev", "sys/kernel/hostname", "sys/kernel/osrelease"] {
        let config = bundle.config.clone();
        let at = format!("/proc/{at}");
        bundle.mount(json!({"destination": at, "source": "file", "options": ["bind"]}));
        let (message, _) = bundle.error();
        assert!(message.contains("it is inside of /proc"), "{message}");
        bundle.config = config;
    }
    // A file that shows the container's limits is allowed.
    fs::write(bundle.beside("meminfo"), "little\n").unwrap();
    bundle.mount(json!({
        "destination": "/proc/meminfo", "source": text(&bundle.beside("meminfo")), "options": ["bind"],
    }));
    bundle.config["process"]["args"] = json!(["cat", "/proc/meminfo"]);
    assert_eq!(bundle.output(), "little\n");
    Ok(())
}

/// Files that a label would be written to if they were looked up in the container.
const LABELS: [&str; 4] = [
    "proc/self/attr/exec",
    "proc/self/attr/apparmor/exec",
    "proc/thread-self/attr/exec",
    "proc/thread-self/attr/apparmor/exec",
];

// CVE-2019-16884, CVE-2025-52881.
fn cve_2025_52881_labels_are_not_written_elsewhere() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["destination"] != "/proc");
    bundle.config["linux"]["maskedPaths"] = json!([]);
    bundle.config["linux"]["readonlyPaths"] = json!([]);
    for path in LABELS {
        fs::create_dir_all(bundle.at(path).parent().unwrap()).unwrap();
        fs::write(bundle.at(path), "").unwrap();
    }
    for field in ["apparmorProfile", "selinuxLabel"] {
        bundle.config["process"][field] = json!("no-such-label");
        let (message, _) = bundle.error();
        let words = format!("process.{field}: can't set \"no-such-label\"");
        assert!(message.starts_with(&words), "{message}");
        bundle.config["process"][field] = json!("");
    }
    for path in LABELS {
        assert_eq!(fs::read(bundle.at(path)).unwrap(), b"", "{path}");
    }
    Ok(())
}

// CVE-2019-16884, CVE-2025-52881.
fn cve_2025_52881_labels_of_later_processes_are_not_written_elsewhere() -> Result<(), Skipped> {
    // The image can't do it, but the workload does.
    let mut script = "mount -t tmpfs t /proc".to_owned();
    for path in LABELS {
        let directory = Path::new(path).parent().unwrap();
        script += &format!(" && mkdir -p /{} && touch /{path}", text(directory));
    }
    let mut bundle = Bundle::new(&format!("{script} && echo ready && sleep 60"));
    bundle.all_capabilities();
    let mut running = bundle.start();
    running.wait_for("ready");
    for field in ["apparmorProfile", "selinuxLabel"] {
        let mut process = bundle.config["process"].clone();
        process[field] = json!("no-such-label");
        let options = ExecOptions::new(null_stdio());
        let error = exec::start(&bundle, running.container(), &process, options).unwrap_err();
        let words = format!("process.{field}: can't set \"no-such-label\"");
        assert!(error.to_string().starts_with(&words), "{error}");
    }
    let written = LABELS.map(|path| format!("cat /{path};")).concat();
    assert_eq!(exec::output(&bundle, &mut running, &written), "");
    Ok(())
}

// CVE-2024-21626.
fn cve_2024_21626_a_leaked_directory_is_no_cwd() -> Result<(), Skipped> {
    let leaked = fs::File::open("/").unwrap();
    leak(&leaked);
    let mut bundle = Bundle::new("ls");
    // Tries whatever numbers the engine's own descriptors have by then.
    for fd in 3..40 {
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        let (message, _) = bundle.error();
        assert!(message.contains("process.cwd"), "{fd}: {message}");
    }
    symlink(
        format!("/proc/self/fd/{}", leaked.as_raw_fd()),
        bundle.at("link"),
    )
    .unwrap();
    bundle.config["process"]["cwd"] = json!("/link");
    let (message, _) = bundle.error();
    assert!(message.contains("process.cwd"), "{message}");
    Ok(())
}

fn a_passwd_that_blocks_is_not_waited_for() -> Result<(), Skipped> {
    let bundle = Bundle::new("echo $HOME");
    fs::create_dir(bundle.at("etc")).unwrap();
    nix::unistd::mkfifo(&bundle.at("etc/passwd"), Mode::S_IRWXU).unwrap();
    assert_eq!(bundle.output(), "/\n");
    Ok(())
}
