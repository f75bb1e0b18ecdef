//! The memory that processes use.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// Starts a container in a VM whose workload prints something and then waits for its stdin, adds up
/// the memory of all processes that the command has then, itself and guest memory left out, in
/// bytes, and lets the workload end.
pub(crate) fn beside_guest(mut command: Command) -> Result<u64, Box<dyn Error>> {
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
    let mut processes = Vec::new();
    add_descendants(run.id(), &mut processes)?;
    let mut bytes = 0;
    for pid in processes {
        let smaps = format!("/proc/{pid}/smaps");
        let smaps = fs::read_to_string(&smaps).map_err(|e| format!("{smaps}: {e}"))?;
        bytes += without_guest(&smaps);
    }
    Ok(bytes)
}

/// Adds the children of a process, and theirs, to a list (proc_pid_task_children, proc(5)).
fn add_descendants(pid: u32, to: &mut Vec<u32>) -> Result<(), Box<dyn Error>> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = fs::read_to_string(thread?.path().join("children"))?;
        for child in children.split_whitespace() {
            let child = child.parse()?;
            to.push(child);
            add_descendants(child, to)?;
        }
    }
    Ok(())
}

/// Returns the bytes of an smaps file, with shared pages divided equally among those that share
/// them, without mappings of memory files: guest memory is one, and nothing else is.
fn without_guest(smaps: &str) -> u64 {
    let mut in_guest_memory = false;
    let mut kilobytes = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if !first.ends_with(':') {
            in_guest_memory = line.contains("/memfd:");
        } else if first == "Pss:" && !in_guest_memory {
            kilobytes += words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
        }
    }
    kilobytes * 1024
}

#[cfg(test)]
mod tests {
    use super::without_guest;

    #[test]
    fn guest_memory_is_left_out() {
        let smaps = "\
7f00-7f10 rw-s 00000000 00:01 1 /memfd:guest (deleted)
Size:               1024 kB
Rss:                 600 kB
Pss:                 512 kB
7f20-7f30 r-xp 00000000 08:01 2 /usr/bin/nacre
Rss:                  80 kB
Pss:                  40 kB
7f40-7f50 rw-p 00000000 00:00 0
Rss:                   4 kB
Pss:                   4 kB
";
        assert_eq!(without_guest(smaps), 44 * 1024);
    }
}
