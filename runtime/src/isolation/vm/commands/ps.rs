//! `nacre ps`: the guest's processes, which its agent lists, as ps(1) would show them. The guest
//! has no ps, so only what is in `COLUMNS` can be asked for. As JSON, the pids on the host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nacre_agent::{
    container::cgroups::Cgroup,
    protocol::{Answer, ProcessEntry},
};
use nix::unistd::{Uid, User};

use crate::{
    isolation::vm::{
        error::{ClientError, VmError},
        found::VmContainer,
        wire::GuestAsk,
    },
    state::Status,
};

use super::client::TIMEOUT;

/// The columns that are shown if none are asked for: those of `ps -ef`.
const DEFAULT: [&Column; 8] = [
    &Column::new("", "UID", -8, |p, _| user(p.uid)),
    &Column::new("pid", "PID", 7, |p, _| p.pid.to_string()),
    &Column::new("ppid", "PPID", 7, |p, _| p.parent.to_string()),
    &Column::new("c", "C", 2, |p, _| share(p).to_string()),
    &Column::new("stime", "STIME", 5, |p, now| start(p.age, now)),
    &Column::new("", "TTY", -8, |p, _| terminal(p)),
    &Column::new("time", "TIME", 8, |p, _| time(p.cpu_time)),
    &Column::new("cmd", "CMD", -27, |p, _| command(p)),
];

/// Further columns that can be asked for (`-o`).
const FURTHER: [Column; 7] = [
    Column::new("uid", "UID", 5, |p, _| p.uid.to_string()),
    Column::new("user", "USER", -8, |p, _| user(p.uid)),
    Column::new("tty", "TT", -8, |p, _| terminal(p)),
    Column::new("etimes", "ELAPSED", 7, |p, _| p.age.to_string()),
    Column::new("times", "TIME", 8, |p, _| p.cpu_time.to_string()),
    Column::new("args", "COMMAND", -27, |p, _| command(p)),
    Column::new("command", "COMMAND", -27, |p, _| command(p)),
];

/// A column, with its name for `-o`. A negative width aligns to the left.
#[derive(Debug)]
struct Column {
    name: &'static str,
    header: &'static str,
    width: isize,
    value: fn(&ProcessEntry, SystemTime) -> String,
}

impl Column {
    const fn new(
        name: &'static str,
        header: &'static str,
        width: isize,
        value: fn(&ProcessEntry, SystemTime) -> String,
    ) -> Self {
        Self {
            name,
            header,
            width,
            value,
        }
    }

    fn named(name: &str) -> Option<&'static Column> {
        let default = DEFAULT.into_iter().filter(|column| !column.name.is_empty());
        let mut columns = default.chain(&FURTHER);
        columns.find(|column| column.name == name)
    }
}

/// Returns a container's processes on the host: its stand-in, the sandbox process, the file server,
/// the monitor, and QEMU where that emulates. Programs ask for pids to look them up on the host, where a guest's pid would be
/// another process's.
pub(crate) fn pids(found: &VmContainer<'_>, status: Status) -> Result<Vec<i32>, VmError> {
    if matches!(status, Status::Creating | Status::Stopped) {
        return Ok(Vec::new());
    }
    let mut pids: Vec<_> = found
        .vm
        .stand_in
        .iter()
        .map(|stand_in| stand_in.pid)
        .collect();
    pids.push(found.vm.sandbox.pid);
    let cgroup = found.vm.cgroup.as_ref();
    for pid in cgroup.map_or(Ok(Vec::new()), Cgroup::processes)? {
        if !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Returns a container's processes in the guest.
pub(crate) fn processes(
    found: &VmContainer<'_>,
    status: Status,
) -> Result<Vec<ProcessEntry>, VmError> {
    if status == Status::Stopped {
        return Ok(Vec::new());
    }
    let asked = found
        .connect()
        .and_then(|mut client| client.ask_guest(GuestAsk::Processes, TIMEOUT));
    match asked {
        Ok(Answer::Processes(processes)) => Ok(processes),
        Ok(_) => Err(ClientError::Unasked.into()),
        Err(ClientError::Gone) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Returns what ps would print about them, with these arguments.
pub(crate) fn ps_table(
    processes: &[ProcessEntry],
    arguments: &[String],
) -> Result<String, VmError> {
    let columns = columns(arguments)?;
    if !columns.iter().any(|column| column.header == "PID") {
        return Err(VmError::NoPidInPs);
    }
    let now = SystemTime::now();
    let mut table = line(&columns, |column| column.header.into());
    for process in processes {
        table += &line(&columns, |column| (column.value)(process, now));
    }
    Ok(table)
}

fn line(columns: &[&Column], value: impl Fn(&Column) -> String) -> String {
    let mut line = String::new();
    for (index, column) in columns.iter().enumerate() {
        let value = value(column);
        let width = column.width.unsigned_abs();
        let is_last = index + 1 == columns.len();
        line += &match column.width {
            ..0 if is_last => value,
            ..0 => format!("{value:<width$} "),
            _ if is_last => format!("{value:>width$}"),
            _ => format!("{value:>width$} "),
        };
    }
    line + "\n"
}

/// Returns the columns that are asked for. Arguments can't choose processes: they are always the
/// container's.
fn columns(arguments: &[String]) -> Result<Vec<&'static Column>, VmError> {
    let refused = |argument: &String| VmError::PsArgument(argument.clone());
    let mut columns = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let list = match argument.as_str() {
            "-e" | "-A" | "-f" | "-ef" | "-eF" => continue,
            "-o" | "-eo" | "-efo" => arguments.next().ok_or_else(|| refused(argument))?,
            _ => return Err(refused(argument)),
        };
        for name in list.split(',') {
            columns.push(Column::named(name).ok_or_else(|| VmError::PsArgument(name.into()))?);
        }
    }
    Ok(if columns.is_empty() {
        DEFAULT.to_vec()
    } else {
        columns
    })
}

/// Returns a user's name on the host, cut to eight characters, or the number.
fn user(uid: u32) -> String {
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    match name.map(|user| user.name) {
        Some(name) if name.chars().count() <= 8 => name,
        Some(name) => name.chars().take(7).chain(['+']).collect(),
        None => uid.to_string(),
    }
}

/// Returns how much of a CPU it has had, in percent.
fn share(process: &ProcessEntry) -> u64 {
    let percent = process.cpu_time.saturating_mul(100) / process.age.max(1);
    percent.min(99)
}

fn terminal(process: &ProcessEntry) -> String {
    printable(process.terminal.as_deref().unwrap_or("?"))
}

fn command(process: &ProcessEntry) -> String {
    printable(&process.command)
}

/// Replaces control characters: a terminal mustn't obey what a workload says of itself.
fn printable(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(printable).collect()
}

/// Formats seconds as `[DD-]HH:MM:SS`.
fn time(seconds: u64) -> String {
    let (minutes, s) = (seconds / 60, seconds % 60);
    let (hours, m) = (minutes / 60, minutes % 60);
    match (hours / 24, hours % 24) {
        (0, h) => format!("{h:02}:{m:02}:{s:02}"),
        (days, h) => format!("{days}-{h:02}:{m:02}:{s:02}"),
    }
}

/// Formats when it was started: the time of day, or the day, or the year.
fn start(age: u64, now: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let began = now.checked_sub(Duration::from_secs(age));
    let (Some(now), Some(then)) = (local(now), began.and_then(local)) else {
        return "?".into();
    };
    if (then.tm_year, then.tm_yday) == (now.tm_year, now.tm_yday) {
        return format!("{:02}:{:02}", then.tm_hour, then.tm_min);
    }
    let month = usize::try_from(then.tm_mon).ok();
    match month.and_then(|month| MONTHS.get(month)) {
        Some(month) if then.tm_year == now.tm_year => format!("{month}{:02}", then.tm_mday),
        _ => format!("{}", 1900 + then.tm_year),
    }
}

fn local(time: SystemTime) -> Option<libc::tm> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let seconds = libc::time_t::try_from(seconds).ok()?;
    // SAFETY: tm is plain old data, for which zeroes are valid, and the call fills it in; both
    // pointers are valid for the call.
    unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        let filled = libc::localtime_r(&raw const seconds, &raw mut parts);
        (!filled.is_null()).then_some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> ProcessEntry {
        ProcessEntry {
            pid: 7,
            parent: 1,
            uid: 0,
            terminal: Some("pts/0".into()),
            age: 10,
            cpu_time: 3,
            command: "sh -c a\u{1b}[31m".into(),
        }
    }

    fn table(arguments: &[&str]) -> Result<String, VmError> {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.into()).collect();
        ps_table(&[process()], &arguments)
    }

    #[test]
    fn the_table_is_as_ps_has_it() {
        let header = "UID          PID    PPID  C STIME TTY          TIME CMD";
        for arguments in [&[][..], &["-ef"]] {
            let table = table(arguments).unwrap();
            let lines: Vec<&str> = table.lines().collect();
            assert_eq!(lines[0], header);
            let line = lines[1];
            assert!(line.starts_with("root           7       1 30 "), "{line}");
            assert!(line.ends_with(" pts/0    00:00:03 sh -c a?[31m"), "{line}");
        }
        let some = table(&["-o", "pid,args"]).unwrap();
        assert_eq!(some, "    PID COMMAND\n      7 sh -c a?[31m\n");
        assert_eq!(table(&["-eo", "pid"]).unwrap(), "    PID\n      7\n");
    }

    #[test]
    fn what_cant_be_shown_is_refused() {
        for arguments in [&["aux"][..], &["-o"], &["-o", "pid,wchan"], &["-L"]] {
            assert!(table(arguments).is_err(), "{arguments:?}");
        }
        let error = table(&["-o", "args"]).unwrap_err();
        assert_eq!(error.to_string(), "couldn't find PID field in ps output");
    }

    #[test]
    fn times_are_as_ps_has_them() {
        assert_eq!(time(3_661), "01:01:01");
        assert_eq!(time(90_000), "1-01:00:00");
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(start(800 * 86_400, now), "2021");
        assert_eq!(start(40 * 86_400, now), "Oct05");
        assert!(start(0, now).contains(':'));
    }
}
