//! A container's life, and its output.

use std::error::Error;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Mode, RUNS, Run, in_each};
use crate::bundle::Container;
use crate::comparison::Comparison;

/// What a workload writes, in bytes.
const OUTPUT: &str = "104857600";

pub(super) fn measure(modes: &[Mode<'_>], table: &mut Comparison) -> Result<(), Box<dyn Error>> {
    let lives = modes.iter().map(lives).collect::<Result<Vec<_>, _>>()?;
    for (index, what) in STEPS.into_iter().enumerate() {
        let times = lives.iter().map(|of_mode| {
            let of_step = of_mode.iter().map(|life| life[index]);
            of_step.collect()
        });
        table.instructions(what, times.collect());
    }
    let output = in_each(modes, output)?;
    table.instructions("100 MiB through stdout, from the first byte on", output);
    Ok(())
}

/// What is timed of a container's life.
const STEPS: [&str; 4] = [
    "`create`",
    "`create` and `start`, to the first byte",
    "`exec` of `true`",
    "`kill` until the container's process is gone",
];

fn lives(mode: &Mode<'_>) -> Result<Vec<[Duration; 4]>, Box<dyn Error>> {
    let bundle = mode.bundle(
        "life",
        &Container::of(&["sh", "-c", "echo; exec sleep 1000"]),
    )?;
    // The first fills caches and isn't counted.
    let mut lives = Vec::new();
    for _ in 0..=RUNS {
        let pid_file = mode.work.join("pid");
        let file = pid_file.to_str().ok_or("the pid file's path")?;
        let begin = Instant::now();
        let mut create = mode
            .nacre(&[
                "create",
                "--bundle",
                bundle.path()?,
                "--pid-file",
                file,
                "life",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = create.stdout.take().ok_or("no stdout")?;
        if !create.wait()?.success() {
            return Err("nacre create failed".into());
        }
        let created = begin.elapsed();
        mode.carry_out(&["start", "life"])?;
        output.read_exact(&mut [0])?;
        let started = begin.elapsed();
        let pid = Pid::from_raw(std::fs::read_to_string(&pid_file)?.trim().parse()?);

        let begin = Instant::now();
        mode.carry_out(&["exec", "life", "/bin/busybox", "true"])?;
        let executed = begin.elapsed();

        let begin = Instant::now();
        mode.carry_out(&["kill", "life", "KILL"])?;
        wait_for(pid)?;
        let gone = begin.elapsed();
        mode.carry_out(&["delete", "life"])?;
        lives.push([created, started, executed, gone]);
    }
    lives.remove(0);
    Ok(lives)
}

/// Waits for the end of a process that came to be this one's child.
fn wait_for(pid: Pid) -> Result<(), Box<dyn Error>> {
    loop {
        match waitpid(pid, None::<WaitPidFlag>) {
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// How long its output takes, from its first byte on.
fn output(mode: &Mode<'_>) -> Result<Duration, Box<dyn Error>> {
    let words = ["head", "-c", OUTPUT, "/dev/zero"];
    let bundle = mode.bundle("output", &Container::of(&words))?;
    let mut run = Run::start(mode.nacre(&["run", "--bundle", bundle.path()?, "output"]))?;
    run.byte()?;
    let begin = Instant::now();
    std::io::copy(&mut run.stdout, &mut std::io::sink())?;
    let took = begin.elapsed();
    run.end()?;
    Ok(took)
}
