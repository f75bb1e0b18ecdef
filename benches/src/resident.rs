//! The memory that the sandbox process uses, without guest memory.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// Starts a container whose workload prints something and then waits for its stdin, adds up the
/// resident pages of its sandbox process that aren't guest memory, in bytes, and lets the workload
/// end.
pub(crate) fn of_sandbox(mut command: Command) -> Result<u64, Box<dyn Error>> {
    let mut run = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let measured = measure(&mut run);
    drop(run.stdin.take());
    run.wait()?;
    measured
}

/// Returns the memory of a process in bytes, with shared pages divided equally among those that
/// share them (proc_pid_smaps(5), `Pss`).
pub(crate) fn of_process(pid: i32) -> Result<u64, Box<dyn Error>> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let kilobytes = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .ok_or_else(|| format!("no Pss in {path}"))?;
    Ok(kilobytes * 1024)
}

fn measure(run: &mut Child) -> Result<u64, Box<dyn Error>> {
    run.stdout
        .as_mut()
        .ok_or("no stdout")?
        .read_exact(&mut [0])?;
    let children = format!("/proc/{0}/task/{0}/children", run.id());
    let sandbox = fs::read_to_string(&children)?;
    let sandbox = sandbox.trim();
    if sandbox.is_empty() || sandbox.contains(' ') {
        return Err(format!("{children} says {sandbox:?}, not one sandbox process").into());
    }
    Ok(resident(&fs::read_to_string(format!(
        "/proc/{sandbox}/smaps"
    ))?))
}

/// Returns the resident bytes of an smaps file, without mappings of memory files: guest memory is
/// one, and the process has no other.
fn resident(smaps: &str) -> u64 {
    let mut in_guest_memory = false;
    let mut kilobytes = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if !first.ends_with(':') {
            in_guest_memory = line.contains("/memfd:");
        } else if first == "Rss:" && !in_guest_memory {
            kilobytes += words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
        }
    }
    kilobytes * 1024
}

#[cfg(test)]
mod tests {
    use super::resident;

    #[test]
    fn guest_memory_is_left_out() {
        let smaps = "\
7f00-7f10 rw-s 00000000 00:01 1 /memfd:guest (deleted)
Size:               1024 kB
Rss:                 512 kB
7f20-7f30 r-xp 00000000 08:01 2 /usr/bin/nacre
Rss:                  40 kB
7f40-7f50 rw-p 00000000 00:00 0
Rss:                   4 kB
";
        assert_eq!(resident(smaps), 44 * 1024);
    }
}
