//! Reads what `/proc` says of processes, for the host's `ps`
//! ([proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)).
//!
//! What a process says of itself is a workload's text: it is cut to a limit, and whoever shows it
//! must expect any character in it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use nacre_agent::protocol::ProcessEntry;
use nix::unistd::{SysconfVar, sysconf};

/// How much of a process's arguments is reported, in bytes.
const COMMAND: u64 = 4096;

/// The first major number of pseudoterminals' slaves (linux/major.h).
const PTY_SLAVE_MAJOR: u64 = 136;

/// Describes those of these processes that still exist.
pub(super) fn describe(pids: &[i32]) -> Vec<ProcessEntry> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let ticks = ticks
        .and_then(|ticks| u64::try_from(ticks).ok())
        .unwrap_or(100);
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split('.').next().and_then(|s| s.parse().ok());
    let uptime = uptime.unwrap_or(0);
    let mut found: Vec<_> = pids
        .iter()
        .filter_map(|pid| one(*pid, uptime, ticks.max(1)))
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Describes one process, if that is possible: `uptime` is in seconds, `ticks` is clock ticks a
/// second.
fn one(pid: i32, uptime: u64, ticks: u64) -> Option<ProcessEntry> {
    let directory = format!("/proc/{pid}");
    let uid = fs::metadata(&directory).ok()?.uid();
    let stat = Stat::parse(&fs::read_to_string(format!("{directory}/stat")).ok()?)?;
    let mut arguments = Vec::new();
    // A zombie has none, and neither has a process that is ending.
    if let Ok(file) = File::open(format!("{directory}/cmdline")) {
        let _ = file.take(COMMAND).read_to_end(&mut arguments);
    }
    Some(ProcessEntry {
        pid,
        command: command(&arguments, &stat),
        parent: stat.parent,
        uid,
        terminal: stat.terminal,
        age: uptime.saturating_sub(stat.start / ticks),
        cpu_time: stat.cpu_time / ticks,
    })
}

/// Returns the arguments as ps(1) shows them, or the name in brackets.
fn command(arguments: &[u8], stat: &Stat) -> String {
    let arguments = String::from_utf8_lossy(arguments);
    match arguments.trim_end_matches('\0') {
        "" if stat.is_zombie => format!("[{}] <defunct>", stat.name),
        "" => format!("[{}]", stat.name),
        arguments => arguments.replace('\0', " "),
    }
}

/// What is used of `/proc/PID/stat`; times are in clock ticks.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    is_zombie: bool,
    parent: i32,
    terminal: Option<String>,
    cpu_time: u64,
    /// Since the boot.
    start: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may itself contain spaces and parentheses.
        let (before, after) = text.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        // The first field is number 3 of the manual page, the state.
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
        let terminal = fields.get(4)?.parse::<i32>().ok()? as u32;
        Some(Self {
            name,
            is_zombie: *fields.first()? == "Z",
            parent: fields.get(1)?.parse().ok()?,
            terminal: terminal_name(terminal),
            cpu_time: field(14)?.saturating_add(field(15)?),
            start: field(22)?,
        })
    }
}

/// Returns a terminal's name by its device number, as the kernel packs it into 32 bits.
fn terminal_name(device: u32) -> Option<String> {
    let major = u64::from(device >> 8 & 0xfff);
    let minor = u64::from(device & 0xff | device >> 12 & 0xf_ff00);
    match major {
        0 => None,
        // Pseudoterminals have several majors in a row, with 256 terminals each.
        PTY_SLAVE_MAJOR..=143 => Some(format!("pts/{}", (major - PTY_SLAVE_MAJOR) * 256 + minor)),
        _ => Some("?".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_understood_whatever_the_name() {
        let line = "7 (a) b (c)) S 1 7 7 34817 7 4194560 1 2 3 4 250 150 7 8 20 0 1 0 4242 1 2 3";
        let stat = Stat::parse(line).unwrap();
        let expected = Stat {
            name: "a) b (c)".to_owned(),
            is_zombie: false,
            parent: 1,
            terminal: Some("pts/1".to_owned()),
            cpu_time: 400,
            start: 4242,
        };
        assert_eq!(stat, expected);
        for short in ["", "7 (a", "7 (a) S 1", "7 a S 1 7 7 0"] {
            assert_eq!(Stat::parse(short), None, "{short}");
        }
    }

    #[test]
    fn terminals_have_names() {
        for (device, name) in [
            (0, None),
            (0x8800, Some("pts/0")),
            (0x10_8801, Some("pts/257")),
            (0x8902, Some("pts/258")),
            (0x0501, Some("?")),
        ] {
            assert_eq!(terminal_name(device).as_deref(), name, "{device:#x}");
        }
    }

    #[test]
    fn commands_are_as_ps_has_them() {
        let stat = |state| {
            let line = format!("1 (sh) {state} 1 1 1 0{}", " 0".repeat(16));
            Stat::parse(&line).unwrap()
        };
        assert_eq!(command(b"sleep\x001 2\0", &stat("S")), "sleep 1 2");
        assert_eq!(command(b"", &stat("S")), "[sh]");
        assert_eq!(command(b"", &stat("Z")), "[sh] <defunct>");
    }

    #[test]
    fn this_process_is_described() {
        let own = std::process::id() as i32;
        let found = describe(&[own, -1]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pid, own);
        assert_eq!(found[0].uid, nix::unistd::getuid().as_raw());
    }
}
