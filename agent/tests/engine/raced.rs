//! The engine's processes on their way into a container, as seen by a process there that may trace
//! them all (CAP_SYS_PTRACE) and does nothing but look for them.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nacre_agent::container::{Container, ExecOptions};
use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, Running, null_stdio, text};
use crate::exec;
use crate::hostile::Words;
use crate::user_namespaces::mapped;

tests![
    a_further_process_is_never_seen_as_the_hosts,
    nor_in_a_user_namespace,
    nor_is_a_container_that_joins_the_pid_namespace,
    nor_is_one_that_waits_for_its_start,
];

/// How many processes are started in a container that looks for them, and how many in all if it
/// hasn't seen [`SEEN`] of them by then.
const PROCESSES: u32 = 200;
const PROCESSES_MAX: u32 = 2000;

/// How many containers join its pid namespace.
const CONTAINERS: u32 = 40;

/// How often the container must have seen one for the test to count.
const SEEN: u32 = 10;

/// How long the container looks at most, should the test be killed.
const BOUND: Duration = Duration::from_secs(600);

/// How many of the descriptors that it has taken the container keeps.
const STOLEN: usize = 100;

const KINDS: [&str; 6] = ["mnt", "ipc", "uts", "net", "cgroup", "user"];

/// Runs in the container: inspects each process as soon as it has a pid there, and records what of
/// the host is reachable through it, until there is a file `/stop`. `words` are the inode of the
/// engine's program, the path of a file on the host, and the host's namespaces.
pub(crate) fn look(words: Words) -> ExitCode {
    let words: Vec<String> = words.collect();
    let [engine, secret, hosts @ ..] = &words[..] else {
        panic!("{words:?}");
    };
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let host = Host {
        engine: engine.parse().unwrap(),
        secret,
        namespaces: hosts,
    };
    let (begin, mut last, mut seen) = (Instant::now(), last_pid(), 0);
    let mut found = BTreeSet::new();
    let mut stolen = Vec::new();
    println!("looking");
    while begin.elapsed() < BOUND && !Path::new("/stop").exists() {
        for _ in 0..2000 {
            let newest = last_pid();
            for pid in std::mem::replace(&mut last, newest) + 1..=newest {
                // A program that can't be inspected isn't the container's either.
                let is_engines = |exe: Option<u64>| exe.is_none_or(|exe| exe == host.engine);
                if let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status"))
                    && is_engines(inode(Path::new(&format!("/proc/{pid}/exe"))))
                {
                    seen += 1;
                    fs::write("/seen", seen.to_string()).unwrap();
                    examine(pid, &status, &own, &host, &mut found);
                    stolen.extend(steal(pid).into_iter().take(STOLEN - stolen.len()));
                }
            }
        }
    }
    for found in found {
        println!("found {found}");
    }
    ExitCode::SUCCESS
}

/// What could be found of the host.
struct Host<'a> {
    engine: u64,
    secret: &'a str,
    namespaces: &'a [String],
}

/// Returns the pid that was given out last in this pid namespace.
fn last_pid() -> u32 {
    let line = fs::read_to_string("/proc/loadavg").unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// Takes a copy of a process's descriptors besides its streams, which include its line to the
/// engine, which waits for the end of that line.
fn steal(pid: u32) -> Vec<OwnedFd> {
    let numbers = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let numbers: Vec<i32> = numbers
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    let call = |number, a: i32, b: i32| {
        // SAFETY: the calls made here take no pointers.
        let fd = unsafe { libc::syscall(number, a, b, 0) };
        // SAFETY: the descriptor was just made, and nothing else owns it.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
    };
    let Some(process) = call(libc::SYS_pidfd_open, pid as i32, 0) else {
        return Vec::new();
    };
    let process = process.as_raw_fd();
    let numbers = numbers.into_iter();
    numbers
        .filter_map(|number| call(libc::SYS_pidfd_getfd, process, number))
        .collect()
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|file| file.ino())
}

/// Records what should not be visible of a process.
fn examine(pid: u32, status: &str, own: &str, host: &Host<'_>, found: &mut BTreeSet<String>) {
    let at = |name: &str| format!("/proc/{pid}/{name}");
    for way in ["root", "cwd"] {
        if Path::new(&format!("{}/{}", at(way), host.secret)).exists() {
            found.insert(format!("the host's files by {way}"));
        }
    }
    let is_other_user_namespace =
        fs::read_link(at("ns/user")).ok() != fs::read_link("/proc/self/ns/user").ok();
    for kind in KINDS {
        if let Ok(link) = fs::read_link(at(&format!("ns/{kind}")))
            && host.namespaces.iter().any(|host| Path::new(host) == link)
        {
            found.insert(format!("the host's {kind} namespace"));
        }
    }
    for entry in fs::read_dir(at("fd")).into_iter().flatten().flatten() {
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        match fs::read_link(entry.path()) {
            Ok(target) if number > 2 && !target.starts_with("/dev/null") => {
                let target = target.to_str().unwrap();
                // A hook in the container has its input and output in memory.
                if !target.starts_with("socket:") && !target.starts_with("/memfd:hook") {
                    found.insert(format!("descriptor {number}: {target:?}"));
                }
            }
            _ => {}
        }
    }
    if fs::read(at("environ")).is_ok_and(|environ| environ.iter().any(|byte| *byte != 0)) {
        // Unless the environment belongs to the workload's program by now.
        if inode(Path::new(&at("exe"))) == Some(host.engine) {
            found.insert("an environment".to_owned());
        }
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let more = bits(status, set) & !bits(own, set);
        if more != 0 && !is_other_user_namespace {
            found.insert(format!("{set} has {more:x} more"));
        }
    }
    if !status.contains("Seccomp:\t2") {
        found.insert("no filter".to_owned());
    }
}

fn bits(status: &str, set: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(set));
    u64::from_str_radix(line.unwrap().trim_start_matches(":\t"), 16).unwrap()
}

/// Makes a container's workload the one that looks.
fn looking(mut bundle: Bundle) -> Bundle {
    fs::copy(std::env::current_exe().unwrap(), bundle.at("looker")).unwrap();
    fs::write(bundle.beside("secret"), "").unwrap();
    let mut args = vec!["/looker".to_owned(), "--look".to_owned()];
    args.push(
        inode(&std::env::current_exe().unwrap())
            .unwrap()
            .to_string(),
    );
    args.push(text(&bundle.beside("secret")).to_owned());
    for kind in KINDS {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        args.push(text(&link).to_owned());
    }
    if fs::read_link("/proc/self/ns/user").is_ok() && !has_user_namespace(&bundle) {
        // The container is in the same user namespace.
        args.pop();
    }
    bundle.config["process"]["args"] = json!(args);
    bundle.namespace(json!({"type": "cgroup"}));
    prepare(&mut bundle);
    bundle
}

fn has_user_namespace(bundle: &Bundle) -> bool {
    let namespaces = bundle.config["linux"]["namespaces"].as_array().unwrap();
    namespaces
        .iter()
        .any(|namespace| namespace["type"] == "user")
}

/// Gives the container the right to trace, and a filter that the engine needs a right to load.
fn prepare(bundle: &mut Bundle) {
    for set in ["bounding", "effective", "permitted"] {
        let set = bundle.config["process"]["capabilities"][set].as_array_mut();
        set.unwrap().push(json!("CAP_SYS_PTRACE"));
    }
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
}

/// Returns how often the container has seen a process.
fn seen(bundle: &Bundle) -> u32 {
    let seen = fs::read_to_string(bundle.at("seen"));
    seen.ok().and_then(|seen| seen.parse().ok()).unwrap_or(0)
}

/// Fails if the container has seen anything of the host.
fn assert_nothing_found(bundle: &Bundle, running: Running<'_>, least: u32) {
    fs::write(bundle.at("stop"), "").unwrap();
    let outcome = running.wait();
    let lines = outcome.stdout.lines();
    let found: Vec<&str> = lines.filter(|line| line.starts_with("found")).collect();
    assert!(
        found.is_empty() && outcome.status == 0,
        "{found:#.1000?} {}",
        outcome.stderr
    );
    let seen = seen(bundle);
    assert!(seen >= least, "it has seen only {seen}");
}

fn start_some(bundle: &Bundle, running: &mut Running<'_>) {
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["true"]);
    for number in 0..PROCESSES_MAX {
        if number >= PROCESSES && seen(bundle) >= SEEN {
            break;
        }
        let options = ExecOptions::new(null_stdio());
        let executed = exec::start(bundle, running.container(), &process, options).unwrap();
        assert_eq!(exec::wait(&executed), 0);
    }
}

fn a_further_process_is_never_seen_as_the_hosts() -> Result<(), Skipped> {
    let bundle = looking(Bundle::new(""));
    let mut running = bundle.start();
    running.wait_for("looking");
    start_some(&bundle, &mut running);
    assert_nothing_found(&bundle, running, SEEN);
    Ok(())
}

fn nor_in_a_user_namespace() -> Result<(), Skipped> {
    let bundle = looking(mapped(""));
    let mut running = bundle.start();
    running.wait_for("looking");
    start_some(&bundle, &mut running);
    assert_nothing_found(&bundle, running, SEEN);
    Ok(())
}

/// Puts a container in another's pid namespace, with hooks that run inside and outside the
/// container.
fn joining(running: &mut Running<'_>, mut bundle: Bundle) -> Bundle {
    let path = format!("/proc/{}/ns/pid", running.container().pid());
    bundle.namespace(json!({"type": "pid", "path": path}));
    bundle.namespace(json!({"type": "cgroup"}));
    prepare(&mut bundle);
    let hook: Value = json!([{"path": "/bin/true"}]);
    bundle.config["hooks"] =
        json!({"createRuntime": hook, "createContainer": hook, "startContainer": hook});
    bundle
}

fn nor_is_a_container_that_joins_the_pid_namespace() -> Result<(), Skipped> {
    let bundle = looking(Bundle::new(""));
    let mut running = bundle.start();
    running.wait_for("looking");
    for _ in 0..CONTAINERS {
        let other = joining(&mut running, Bundle::new("test -e /proc/self/status"));
        assert_eq!(other.run().status, 0);
    }
    // With a user namespace that has no right to the pid namespace, which is therefore entered
    // early.
    for with_hooks in [true, false] {
        let mut other = joining(&mut running, mapped("true"));
        other.config["mounts"] = json!([]);
        other.config["linux"]["maskedPaths"] = json!([]);
        other.config["linux"]["readonlyPaths"] = json!([]);
        if with_hooks {
            assert!(other.error().0.contains("could look into them, since the"));
        } else {
            other.config["hooks"] = json!({});
            assert_eq!(other.run().status, 0);
        }
    }
    assert_nothing_found(&bundle, running, SEEN);
    Ok(())
}

fn nor_is_one_that_waits_for_its_start() -> Result<(), Skipped> {
    let bundle = looking(Bundle::new(""));
    let mut running = bundle.start();
    running.wait_for("looking");
    let other = joining(&mut running, Bundle::new("true"));
    let created: Container = other.create(null_stdio()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    created.destroy().unwrap();
    assert_nothing_found(&bundle, running, 1);
    Ok(())
}
