//! Shares the tests out to testbeds, and gives a testbed whose machine fails a successor.

use std::collections::HashSet;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::repository;

/// How long a testbed may print nothing. A test that takes too long is ended before this by the
/// program inside, so a silence means that the machine itself stands still: QEMU's emulated SVM has
/// been seen to do that (tests/testbed/README.md).
const SILENCE: Duration = Duration::from_secs(420);

/// What `tests/testbed/run` ends with if its machine can't be had, or its kernel dies.
const MACHINE_FAILED: i32 = 125;

/// How many machines of one part may fail before it does.
const FAILURES: usize = 2;

/// Which part of the tests a testbed runs, as `index/count`.
const PART: &str = "NACRE_TESTS_PART";

/// The tests that a machine had done before it failed, separated by commas.
const DONE: &str = "NACRE_TESTS_DONE";

/// Returns how many testbeds share the tests. Each has one CPU: with two VMs at once on two CPUs,
/// QEMU's emulated SVM has been seen to lock up the machine's own kernel and to end guests with
/// triple faults.
fn count() -> usize {
    thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4))
}

/// Runs this program again in testbeds, each with its part of the tests, and returns the worst of
/// their results.
pub(crate) fn run() -> ExitCode {
    let parts = count();
    let mut worst = 0;
    thread::scope(|scope| {
        let start = |part| scope.spawn(move || Part::new(part, parts).run());
        let started: Vec<_> = (0..parts).map(start).collect();
        // The first part's output is shown as it comes, the others' when they have ended.
        for part in started {
            let code = part.join().expect("no test runs here").and_then(|end| {
                io::stdout().write_all(&end.output)?;
                Ok(end.code)
            });
            worst = worst.max(code.unwrap_or_else(|e| {
                eprintln!("tests/testbed/run: {e}");
                1
            }));
        }
    });
    ExitCode::from(u8::try_from(worst).unwrap_or(1))
}

/// What a part's testbeds have ended with.
struct End {
    code: i32,
    /// What was not shown yet.
    output: Vec<u8>,
}

/// A part of the tests, in one testbed after another.
struct Part {
    index: usize,
    count: usize,
    report: Report,
}

impl Part {
    fn new(index: usize, count: usize) -> Self {
        let report = Report {
            shown: index == 0,
            ..Report::default()
        };
        Self {
            index,
            count,
            report,
        }
    }

    fn run(mut self) -> io::Result<End> {
        let mut failures = 0;
        let code = loop {
            let (reader, writer) = io::pipe()?;
            let mut testbed = self.start(writer)?;
            let stood_still = self.report.read(reader, &testbed)?;
            let code = testbed.wait()?.code().unwrap_or(1);
            let index = self.index;
            if stood_still {
                let seconds = SILENCE.as_secs();
                eprintln!("testbed {index}: its machine has stood still for {seconds} s");
            } else if code == MACHINE_FAILED {
                eprintln!("testbed {index}: its machine has failed");
            } else {
                break code;
            }
            failures += 1;
            if failures > FAILURES {
                break code;
            }
            eprintln!("testbed {index}: what it hasn't done runs in a new machine");
        };
        // What failed in an earlier machine has been run again, for its message.
        let code = code.max(i32::from(self.report.failed));
        let output = self.report.output;
        Ok(End { code, output })
    }

    fn start(&self, output: io::PipeWriter) -> io::Result<Child> {
        Command::new(repository().join("tests/testbed/run"))
            .args(["--cpus", "1", "--memory", "8192", "--timeout", "2400", "--"])
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(PART, format!("{}/{}", self.index, self.count))
            .env(DONE, self.report.done.join(","))
            .stdin(Stdio::null())
            .stdout(output)
            .spawn()
    }
}

/// What a part's testbeds print, and what that says of its tests.
#[derive(Default)]
struct Report {
    /// Whether it is passed on as it comes.
    shown: bool,
    output: Vec<u8>,
    line: Vec<u8>,
    done: Vec<String>,
    failed: bool,
}

impl Report {
    /// Reads all that a testbed prints. One that prints nothing for too long is ended, and `true`
    /// returned.
    fn read(&mut self, mut from: PipeReader, testbed: &Child) -> io::Result<bool> {
        let limit = PollTimeout::try_from(SILENCE).expect("fits into milliseconds");
        let mut stood_still = false;
        let mut bytes = [0; 4096];
        self.line.clear();
        loop {
            let ready = poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], limit);
            match ready {
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
                // Its last words are read too.
                Ok(0) if !stood_still => {
                    stood_still = true;
                    let pid = Pid::from_raw(testbed.id().cast_signed());
                    kill(pid, Signal::SIGALRM)?;
                    continue;
                }
                Ok(0) => return Err(io::Error::other("a testbed doesn't end")),
                Ok(_) => {}
            }
            let length = from.read(&mut bytes)?;
            if length == 0 {
                return Ok(stood_still);
            }
            self.take(&bytes[..length])?;
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.shown {
            io::stdout().write_all(bytes)?;
            io::stdout().flush()?;
        } else {
            self.output.extend_from_slice(bytes);
        }
        for &byte in bytes {
            if byte == b'\n' {
                self.note();
                self.line.clear();
            } else {
                self.line.push(byte);
            }
        }
        Ok(())
    }

    /// Takes note of a line such as `test module::name ... ok`.
    fn note(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        if outcome.starts_with("ok") || outcome.starts_with("ignored") {
            self.done.push(name.trim().to_owned());
            return;
        }
        self.failed = true;
        if !outcome.starts_with("FAILED") {
            eprintln!("a test's line without its outcome counts as a failure: {line}");
        }
    }
}

/// Returns which of all tests, by name, this process runs: every `count`-th, but for what an earlier
/// machine has done.
pub(crate) fn part<T>(tests: Vec<T>, name: impl Fn(&T) -> String) -> Vec<T> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let part = variable(PART);
    let (index, count) = part
        .split_once('/')
        .and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)))
        .filter(|&(_, count)| count > 0)
        .unwrap_or((0, 1));
    let done = variable(DONE);
    let done: HashSet<&str> = done.split(',').collect();
    let mine = tests.into_iter().skip(index).step_by(count);
    mine.filter(|test| !done.contains(name(test).as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_had_done_before_it_failed() {
        let mut report = Report::default();
        let lines = "running 4 tests\ntest a::b     ... ok\ntest a::c ... ignored (why ... so)\n\
                     test a::d ... FAILED\ntest a::e    ... ";
        report.take(lines.as_bytes()).unwrap();
        assert_eq!(report.done, ["a::b", "a::c"]);
        assert!(report.failed);
    }

    #[test]
    fn a_line_without_an_outcome() {
        let mut report = Report::default();
        report.take(b"test a::b ... 12 ms\nok\n").unwrap();
        assert!(report.done.is_empty() && report.failed);
    }
}
