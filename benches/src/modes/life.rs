//! A container's life, and its output.

use std::error::Error;
use std::io::Read;
use std::process::Stdio;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Mode, RUNS, Run, in_each};
use crate::bundle::Container;
use crate::clock::{Moment, Taken};
use crate::comparison::Comparison;

/// How much a workload writes, in bytes.
const OUTPUT: u64 = 100_000_000;

pub(super) fn measure(modes: &[Mode<'_>], table: &mut Comparison) -> Result<(), Box<dyn Error>> {
    let lives = modes.iter().map(lives).collect::<Result<Vec<_>, _>>()?;
    for (index, what) in STEPS.into_iter().enumerate() {
        let times = lives.iter().map(|of_mode| {
            let of_step = of_mode.iter().map(|life| life[index]);
            of_step.collect()
        });
        table.instructions(what, times.collect());
    }
    Ok(())
}

pub(super) fn measure_output(
    modes: &[Mode<'_>],
    table: &mut Comparison,
) -> Result<(), Box<dyn Error>> {
    let output = in_each(modes, output)?;
    table.instructions("100 MB through stdout", output);
    Ok(())
}

/// The steps of a container's life that are timed.
const STEPS: [&str; 4] = [
    "`create`",
    "`create` and `start`, to the first byte",
    "`exec` of `true`",
    "`kill` until the container's process is gone",
];

fn lives(mode: &Mode<'_>) -> Result<Vec<[Taken; 4]>, Box<dyn Error>> {
    let bundle = mode.bundle(
        "life",
        &Container::of(&["sh", "-c", "echo; exec sleep 1000"]),
    )?;
    // The first life fills caches and isn't counted.
    let mut lives = Vec::new();
    for _ in 0..=RUNS {
        let pid_file = mode.work.join("pid");
        let file = pid_file.to_str().ok_or("the pid file's path")?;
        let begin = Moment::now()?;
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
        let created = begin.taken()?;
        mode.carry_out(&["start", "life"])?;
        output.read_exact(&mut [0])?;
        let started = begin.taken()?;
        let pid = Pid::from_raw(std::fs::read_to_string(&pid_file)?.trim().parse()?);

        let begin = Moment::now()?;
        mode.carry_out(&["exec", "life", "/bin/busybox", "true"])?;
        let executed = begin.taken()?;

        let begin = Moment::now()?;
        mode.carry_out(&["kill", "life", "KILL"])?;
        wait_for(pid)?;
        let gone = begin.taken()?;
        mode.carry_out(&["delete", "life"])?;
        lives.push([created, started, executed, gone]);
    }
    lives.remove(0);
    Ok(lives)
}

/// Waits for the end of a process that has become this one's child.
fn wait_for(pid: Pid) -> Result<(), Box<dyn Error>> {
    loop {
        match waitpid(pid, None::<WaitPidFlag>) {
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns how long a container's output takes, from the first byte to the last.
fn output(mode: &Mode<'_>) -> Result<Taken, Box<dyn Error>> {
    let count = OUTPUT.to_string();
    let words = ["nacre-bench", "workload", "print", &count];
    let bundle = mode.bundle("output", &Container::of(&words))?;
    let mut run = Run::start(mode.nacre(&["run", "--bundle", bundle.path()?, "output"]))?;
    run.byte()?;
    let begin = Moment::now()?;
    let mut output = (&mut run.stdout).take(OUTPUT);
    if std::io::copy(&mut output, &mut std::io::sink())? < OUTPUT {
        return Err("some output is missing".into());
    }
    let took = begin.taken()?;
    run.end()?;
    Ok(took)
}
