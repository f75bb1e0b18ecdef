//! Measures what containers on this host's kernel cost, side by side with crun's and runc's: each
//! measurement alternates between the runtimes, so that the machine's other load affects all alike.
//!
//! Programs, bundles and state are on a tmpfs. If both versions of cgroups are mounted, version 2
//! is unmounted for all: crun refuses such a layout.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::bundle::Bundle;
use crate::comparison::Comparison;
use crate::resident;

/// How often each command is timed, after one run that isn't.
const RUNS: usize = 100;
/// How often each series of containers is run, and memory is measured.
const ROUNDS: usize = 5;
/// How many containers are in a series.
const SERIES: usize = 100;
/// How many of them run at a time, in the parallel series.
const AT_A_TIME: usize = 20;

const WORK: &str = "/dev/shm/nacre-bench-process";

/// A runtime that is measured.
struct Runtime {
    name: &'static str,
    program: PathBuf,
    flags: &'static [&'static str],
    root: PathBuf,
}

impl Runtime {
    /// Copies a runtime's program.
    fn copy(
        name: &'static str,
        from: &Path,
        flags: &'static [&'static str],
    ) -> Result<Self, Box<dyn Error>> {
        let program = Path::new(WORK).join(name);
        fs::copy(from, &program).map_err(|e| format!("copying {}: {e}", from.display()))?;
        Ok(Self {
            name,
            program,
            flags,
            root: Path::new(WORK).join(format!("{name}-root")),
        })
    }

    /// Returns a container's id. Containers of several runtimes may exist at once, and their
    /// cgroups are named after their ids.
    fn id(&self, name: &str) -> String {
        format!("bench-{}-{name}", self.name)
    }

    /// Runs a command. Its output isn't read: a container may go on holding it.
    fn run(&self, words: &[&str]) -> Result<(), String> {
        let status = Command::new(&self.program)
            .args(self.flags)
            .arg("--root")
            .arg(&self.root)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(|e| format!("{}: {e}", self.name))?;
        if status.success() {
            Ok(())
        } else {
            Err(format!(
                "{} {} ended with {status}",
                self.name,
                words.join(" ")
            ))
        }
    }

    /// Makes a container with `words`, passes its pid to `look`, and removes it.
    fn with<T>(
        &self,
        words: &[&str],
        bundle: &Bundle,
        look: impl FnOnce(i32) -> Result<T, Box<dyn Error>>,
    ) -> Result<T, Box<dyn Error>> {
        let file = Path::new(WORK).join("pid");
        let bundle = bundle.path.to_str().ok_or("the bundle's path")?;
        let pid_file = file.to_str().ok_or("the pid file's path")?;
        self.run(
            &[
                words,
                &[
                    "--bundle",
                    bundle,
                    "--pid-file",
                    pid_file,
                    &self.id("looked-at"),
                ],
            ]
            .concat(),
        )?;
        let pid = fs::read_to_string(&file)?.trim().parse()?;
        reap();
        let seen = look(pid);
        self.run(&["delete", "--force", &self.id("looked-at")])?;
        reap();
        seen
    }
}

/// Returns the runtimes that are installed, and reports the others.
fn runtimes(bin: &Path) -> Result<Vec<Runtime>, Box<dyn Error>> {
    let mut runtimes = vec![Runtime::copy(
        "nacre",
        &bin.join("nacre"),
        &["--isolation=process"],
    )?];
    for (name, directory) in [("crun", "/usr/bin"), ("runc", "/usr/sbin")] {
        let path = Path::new(directory).join(name);
        if path.exists() {
            runtimes.push(Runtime::copy(name, &path, &[])?)
        } else {
            eprintln!("skipped: {name}, since there is no {}", path.display())
        }
    }
    Ok(runtimes)
}

/// Measures the `nacre` in `bin`, and prints a Markdown table.
pub(crate) fn measure(bin: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(WORK)?;
    leave_version_2()?;
    // What a runtime leaves behind becomes this process's child.
    prctl::set_child_subreaper(true)?;
    let measured = measure_all(&runtimes(bin)?);
    fs::remove_dir_all(WORK)?;
    print!("{}", measured?);
    Ok(())
}

/// Unmounts cgroup version 2 beside version 1, for this process and its children.
fn leave_version_2() -> Result<(), Box<dyn Error>> {
    let beside = "/sys/fs/cgroup/unified";
    if !Path::new(beside).join("cgroup.controllers").exists() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    umount2(beside, MntFlags::MNT_DETACH)?;
    Ok(())
}

fn measure_all(runtimes: &[Runtime]) -> Result<Comparison, Box<dyn Error>> {
    let mut table = Comparison::new(
        "process isolation",
        runtimes.iter().map(|runtime| runtime.name).collect(),
    );
    let ends = Bundle::create(&Path::new(WORK).join("true"), &["true"])?;
    let stays = Bundle::create(&Path::new(WORK).join("sleep"), &["sleep", "1000"])?;
    let bundle = ends.path.to_str().ok_or("the bundle's path")?;

    let run = |runtime: &Runtime| runtime.run(&["run", "--bundle", bundle, &runtime.id("one")]);
    let times = repeat(runtimes, RUNS, run)?;
    table.times("`run` of `true`", times);

    let life = |runtime: &Runtime| {
        runtime.run(&["create", "--bundle", bundle, &runtime.id("one")])?;
        runtime.run(&["start", &runtime.id("one")])?;
        runtime.run(&["delete", "--force", &runtime.id("one")])
    };
    let times = repeat(runtimes, RUNS, life)?;
    table.times("`create`, `start`, `delete --force` of `true`", times);

    table.times("`exec` of `true`", exec(runtimes, &stays)?);

    let mut waiting = Vec::new();
    let mut behind = Vec::new();
    for runtime in runtimes {
        let look = || runtime.with(&["create"], &stays, resident::of_process);
        waiting.push((0..ROUNDS).map(|_| look()).collect::<Result<_, _>>()?);
        let look = || runtime.with(&["run", "--detach"], &stays, beside);
        behind.push((0..ROUNDS).map(|_| look()).collect::<Result<_, _>>()?);
    }
    table.memory(
        "memory (PSS) of what waits between `create` and `start`",
        waiting,
    );
    table.memory(
        "memory (PSS) of what stays beside a container of `run --detach`",
        behind,
    );

    let series = |runtime: &Runtime| {
        (0..SERIES).try_for_each(|n| {
            runtime.run(&["run", "--bundle", bundle, &runtime.id(&n.to_string())])
        })
    };
    let times = repeat(runtimes, ROUNDS, series)?;
    table.times(
        &format!("{SERIES} times `run` of `true`, one after another"),
        times,
    );

    let together = |runtime: &Runtime| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_A_TIME)
                .map(|thread| {
                    scope.spawn(move || {
                        (0..SERIES / AT_A_TIME).try_for_each(|n| {
                            let id = runtime.id(&format!("{thread}-{n}"));
                            runtime.run(&["run", "--bundle", bundle, &id])
                        })
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| {
                let ended = thread.join();
                ended.unwrap_or_else(|_| Err("a thread panicked".to_owned()))
            })
        })
    };
    let times = repeat(runtimes, ROUNDS, together)?;
    table.times(
        &format!("{SERIES} times `run` of `true`, {AT_A_TIME} at a time"),
        times,
    );
    Ok(table)
}

/// Times something with each runtime in turn, `times` times each, after one run that isn't timed.
fn repeat(
    runtimes: &[Runtime],
    times: usize,
    what: impl Fn(&Runtime) -> Result<(), String>,
) -> Result<Vec<Vec<Duration>>, Box<dyn Error>> {
    let mut taken = vec![Vec::new(); runtimes.len()];
    for round in 0..=times {
        for turn in 0..runtimes.len() {
            // Each round starts with another runtime.
            let which = (round + turn) % runtimes.len();
            let begin = Instant::now();
            what(&runtimes[which])?;
            let took = begin.elapsed();
            reap();
            if round > 0 {
                taken[which].push(took);
            }
        }
    }
    Ok(taken)
}

/// Does the same for `exec` of `true`, in a container that each runtime has for that.
fn exec(runtimes: &[Runtime], stays: &Bundle) -> Result<Vec<Vec<Duration>>, Box<dyn Error>> {
    let bundle = stays.path.to_str().ok_or("the bundle's path")?;
    let started = runtimes.iter().try_for_each(|runtime| {
        runtime.run(&["run", "--detach", "--bundle", bundle, &runtime.id("idle")])
    });
    let times = match started {
        Ok(()) => repeat(runtimes, RUNS, |runtime| {
            runtime.run(&["exec", &runtime.id("idle"), "/bin/busybox", "true"])
        }),
        Err(why) => Err(why.into()),
    };
    for runtime in runtimes {
        // If it wasn't started there is none, and that has been reported.
        let _ = runtime.run(&["delete", "--force", &runtime.id("idle")]);
    }
    reap();
    times
}

/// Returns the memory of all children of this process but the container's own first one.
fn beside(init: i32) -> Result<u64, Box<dyn Error>> {
    let own = std::process::id();
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
    let others = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid| *pid != init);
    others.map(resident::of_process).sum()
}

/// Reaps what others left behind: there must be no child whose end is still waited for.
fn reap() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
