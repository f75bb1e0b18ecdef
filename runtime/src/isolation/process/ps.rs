//! `nacre ps`: the processes of a container's cgroup, as ps(1) describes them.

use std::process::Command;

use super::{error::ProcessError, found::HostContainer};

/// The default arguments for ps.
const DEFAULT: &str = "-ef";

/// The header of the column with pids.
const PID: &str = "PID";

/// Returns the pids of a container's processes.
pub(crate) fn pids(found: &HostContainer<'_>) -> Result<Vec<i32>, ProcessError> {
    let mut pids = found.cgroup("ps")?.processes()?;
    pids.sort_unstable();
    Ok(pids)
}

/// Returns what ps prints about them, with these arguments.
pub(crate) fn table(pids: &[i32], arguments: &[String]) -> Result<String, ProcessError> {
    let mut ps = Command::new("ps");
    match arguments {
        [] => ps.arg(DEFAULT),
        _ => ps.args(arguments),
    };
    let output = ps.output().map_err(ProcessError::Ps)?;
    if !output.status.success() {
        return Err(ProcessError::PsFailed {
            status: output.status,
            message: String::from_utf8_lossy(&output.stderr).trim().into(),
        });
    }
    only(&String::from_utf8_lossy(&output.stdout), pids).ok_or(ProcessError::NoPidInPs)
}

/// Returns the lines of these processes, and the header; `None` if that has no column of pids.
fn only(output: &str, pids: &[i32]) -> Option<String> {
    let header = output.lines().next()?;
    let column = header.split_whitespace().position(|name| name == PID)?;
    let has_pid = |line: &str| {
        let pid = line.split_whitespace().nth(column);
        pid.and_then(|pid| pid.parse().ok())
            .is_some_and(|pid: i32| pids.contains(&pid))
    };
    let lines = output.lines().skip(1).filter(|line| has_pid(line));
    let table = std::iter::once(header).chain(lines);
    Some(table.flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_listed() {
        let output = "UID   PID  PPID CMD\nroot    1     0 init 7\nroot    7     1 sleep\n";
        assert_eq!(
            only(output, &[7, 8]).unwrap(),
            "UID   PID  PPID CMD\nroot    7     1 sleep\n"
        );
        assert_eq!(only("CMD\ninit\n", &[1]), None);
        assert_eq!(only("", &[1]), None);
    }
}
