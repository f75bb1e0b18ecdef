//! The command's log: one line per event, on standard error and in the file that `--log` names, in
//! runc's formats.
//!
//! Errors go to both. Warnings and (with `--debug`) debug messages go to the file if there is one,
//! otherwise to standard error. A guest can cause them over and over: the length of lines is
//! limited, and so is their number. A process that a guest may take over has no log: it passes its
//! messages on to its parent, which limits and writes them.

use std::{
    error::Error,
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::ValueEnum;
pub(crate) use nacre_agent::container::describe as chain;
use nacre_vmm::Allowance;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{Level, Metadata, Subscriber, field::Field, span};

use crate::text::is_shown;

/// How many bytes of events a process writes: at once, and the time after which there is one more.
/// The error that it ends with doesn't count.
const AT_ONCE: u64 = 1 << 20;
const EACH: Duration = Duration::from_millis(1);

/// The longest message, in bytes: the last output of a guest's console and of QEMU fits.
const LONGEST: usize = 32 << 10;

/// The longest line that is passed on, in bytes: a pipe takes it whole or not at all (`PIPE_BUF`,
/// pipe(7)).
pub(crate) const LONGEST_PASSED_ON: usize = libc::PIPE_BUF;

/// The message, written once, when there is more.
const LEFT_OUT: &str = "there is too much to be said; from here on lines are missing";

/// Why the log file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't open the log file {path}")]
pub(crate) struct LogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The form of the log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// time="…" level=error msg="…"
    Text,
    /// {"level":"error","msg":"…","time":"…"}
    Json,
}

struct Log {
    file: Option<File>,
    format: LogFormat,
    most_verbose: Level,
    events: Mutex<Events>,
}

/// What may still be written of events.
struct Events {
    allowance: Allowance,
    is_whole: bool,
}

impl Events {
    fn new(allowance: Allowance) -> Self {
        Self {
            allowance,
            is_whole: true,
        }
    }

    /// Returns what is to be written for a message, if anything.
    fn pass<'a>(&mut self, message: &'a str) -> Option<&'a str> {
        let is_allowed = self.allowance.take(message.len() as u64);
        let said = if is_allowed {
            Some(message)
        } else {
            self.is_whole.then_some(LEFT_OUT)
        };
        self.is_whole &= is_allowed;
        said
    }
}

static LOG: OnceLock<Log> = OnceLock::new();

/// What becomes of this process's messages.
static FATE: AtomicU8 = AtomicU8::new(WRITTEN);

/// They are written to the log.
const WRITTEN: u8 = 0;
/// Only standard error is still written to.
const SILENT: u8 = 1;
/// They are passed on by standard error.
const PASSED_ON: u8 = 2;

/// Opens the log, and directs what libraries trace to it.
pub(crate) fn init(
    path: Option<&Path>,
    format: LogFormat,
    with_debug_messages: bool,
) -> Result<(), LogError> {
    let file = match path {
        Some(path) => Some(
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map_err(|source| LogError {
                    path: path.into(),
                    source,
                })?,
        ),
        None => None,
    };
    let log = LOG.get_or_init(|| Log {
        file,
        format,
        most_verbose: if with_debug_messages {
            Level::DEBUG
        } else {
            Level::WARN
        },
        events: Mutex::new(Events::new(Allowance::new(AT_ONCE, EACH))),
    });
    // Fails only if there is a subscriber already, which happens only in tests.
    let _ = tracing::subscriber::set_global_default(log);
    Ok(())
}

/// Reports the error that a command ends with.
pub(crate) fn report(error: &dyn Error) {
    let message = chain(error);
    match LOG.get() {
        Some(log) => log.write(Level::ERROR, &message),
        None => to_stderr("", &message),
    }
}

/// Writes nothing more to the log's file, in a process that was forked and has closed it: another
/// file may have its descriptor.
pub(crate) fn silence() {
    FATE.store(SILENT, Ordering::Relaxed);
}

/// Passes this process's events on from here on, in a process that was forked: its standard error
/// becomes the end of a pipe, whose other end its parent reads ([`PassedOn`]).
pub(crate) fn pass_on() {
    FATE.store(PASSED_ON, Ordering::Relaxed);
}

fn fate() -> u8 {
    FATE.load(Ordering::Relaxed)
}

/// The events that a child passes on, which may have been taken over: none of them is more than a
/// warning, and all of them together are limited as a process's own are.
pub(crate) struct PassedOn(Events);

impl PassedOn {
    pub(crate) fn new() -> Self {
        Self(Events::new(Allowance::new(AT_ONCE, EACH)))
    }

    /// Writes a line to the log, unless that is more than is allowed, or the log takes nothing
    /// without delay.
    pub(crate) fn write(&mut self, line: &[u8]) {
        let Some(log) = LOG.get() else {
            return;
        };
        let (level, message) = Self::read(line);
        if level > log.most_verbose || !log.takes_more() {
            return;
        }
        if let Some(message) = self.0.pass(&message) {
            log.write(level, message);
        }
    }

    /// Returns a line's level, and its message as the log has it.
    pub(crate) fn read(line: &[u8]) -> (Level, String) {
        let (level, message) = read_passed_on(line);
        (level, one_line(&String::from_utf8_lossy(message)))
    }
}

/// Whether something can be written there without waiting for a reader.
pub(crate) fn takes_more(sink: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(sink, PollFlags::POLLOUT)];
    let ready = poll(&mut polled, PollTimeout::ZERO);
    ready == Ok(1) && polled[0].any().unwrap_or(false)
}

/// Makes the line that passes a message on, with its level as a number (sd-daemon(3)).
fn passed_on(level: Level, message: &str) -> String {
    let level = match level {
        Level::ERROR | Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    let mut line = format!("<{level}>{message}");
    line.truncate(line.floor_char_boundary(LONGEST_PASSED_ON - 1));
    line.push('\n');
    line
}

/// Takes a line that was passed on apart. One without a level is a panic's, or a library's.
fn read_passed_on(line: &[u8]) -> (Level, &[u8]) {
    let line = line.trim_ascii_end();
    match line {
        [b'<', b'4', b'>', message @ ..] => (Level::WARN, message),
        [b'<', b'6', b'>', message @ ..] => (Level::INFO, message),
        [b'<', b'7', b'>', message @ ..] => (Level::DEBUG, message),
        _ => (Level::WARN, line),
    }
}

impl Log {
    /// Whether an event can be written without waiting for a reader.
    fn takes_more(&self) -> bool {
        let stderr = io::stderr();
        takes_more(self.file.as_ref().map_or(stderr.as_fd(), AsFd::as_fd))
    }

    fn write(&self, level: Level, message: &str) {
        let message = one_line(message);
        let is_open = fate() == WRITTEN;
        if let Some(mut file) = self.file.as_ref().filter(|_| is_open) {
            let line = match self.format {
                LogFormat::Json => json_line(level, &message, SystemTime::now()),
                LogFormat::Text => text_line(level, &message, SystemTime::now()),
            };
            // One write per line, so that the lines of several processes don't mix.
            let _ = file.write_all(line.as_bytes());
        }
        if level == Level::ERROR {
            to_stderr("", &message);
        } else if self.file.is_none() {
            to_stderr(&format!("{}: ", name(level)), &message);
        }
    }
}

fn to_stderr(level: &str, message: &str) {
    // There is nobody left to tell if this fails.
    let _ = io::stderr().write_all(format!("nacre: {level}{}\n", one_line(message)).as_bytes());
}

/// Makes a message, which may quote a guest, safe for a terminal: one line of limited length.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len().min(LONGEST));
    for c in message.chars() {
        if line.len() >= LONGEST {
            break;
        }
        match c {
            '\n' => line.push_str(" | "),
            '\r' => {}
            '\t' => line.push(' '),
            c if is_shown(c) => line.push(c),
            _ => line.push('\u{fffd}'),
        }
    }
    line
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    }
}

fn json_line(level: Level, message: &str, time: SystemTime) -> String {
    let line = serde_json::json!({
        "level": name(level),
        "msg": message,
        "time": rfc3339(time),
    });
    format!("{line}\n")
}

fn text_line(level: Level, message: &str, time: SystemTime) -> String {
    // JSON's quoting is as good as any here: the message contains no control characters.
    let quoted = serde_json::Value::from(message);
    format!(
        "time=\"{}\" level={} msg={quoted}\n",
        rfc3339(time),
        name(level)
    )
}

/// Formats a time as in RFC 3339, in UTC, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (days, second) = (seconds / 86400, seconds % 86400);
    // Years that begin in March put the leap day last: then a month's first day is linear in
    // the month. 719468 days lie between 0000-03-01 and 1970-01-01; an era has 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day + 2) / 153;
    let day = day - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Handles what libraries report through `tracing`; spans aren't used.
impl Subscriber for &'static Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.most_verbose
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        let message = one_line(&format!("{}{}", message.text, message.fields));
        let level = *event.metadata().level();
        if fate() == PASSED_ON {
            let _ = io::stderr().write_all(passed_on(level, &message).as_bytes());
            return;
        }
        let mut events = self.events.lock().unwrap_or_else(|e| e.into_inner());
        let message = events.pass(&message);
        if let Some(message) = message {
            self.write(level, message);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Message {
    text: String,
    fields: String,
}

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.text, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_line_is_in_runcs_json_form() {
        let line = json_line(Level::ERROR, "no \"x\"", UNIX_EPOCH);
        assert_eq!(
            line,
            "{\"level\":\"error\",\"msg\":\"no \\\"x\\\"\",\"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
    }

    #[test]
    fn a_line_is_in_runcs_text_form() {
        let line = text_line(Level::WARN, "no \"x\"", UNIX_EPOCH);
        assert_eq!(
            line,
            "time=\"1970-01-01T00:00:00Z\" level=warning msg=\"no \\\"x\\\"\"\n"
        );
    }

    #[test]
    fn a_guest_can_neither_add_lines_nor_reach_the_terminal() {
        assert_eq!(
            one_line("a\nb\x1b[31mc\r\n\u{9b}d"),
            "a | b\u{fffd}[31mc | \u{fffd}d"
        );
    }

    #[test]
    fn a_guest_can_make_no_line_too_long_nor_lines_too_many() {
        let long = "\u{e4}".repeat(LONGEST);
        assert_eq!(one_line(&long).len(), LONGEST);
        // The last character may be longer than a byte.
        assert!(one_line(&"\n".repeat(LONGEST)).len() < LONGEST + 4);
        let mut events = Events::new(Allowance::new(10, Duration::from_secs(3600)));
        let said: Vec<_> = (0..100).filter_map(|_| events.pass("12345")).collect();
        assert_eq!(said, ["12345", "12345", LEFT_OUT]);
    }

    #[test]
    fn what_is_passed_on_arrives_and_is_never_an_error() {
        for (level, arrives) in [
            (Level::ERROR, Level::WARN),
            (Level::WARN, Level::WARN),
            (Level::INFO, Level::INFO),
            (Level::DEBUG, Level::DEBUG),
        ] {
            let line = passed_on(level, "it's <7>");
            let read = read_passed_on(line.as_bytes());
            assert_eq!(read, (arrives, &b"it's <7>"[..]));
        }
        let long = passed_on(Level::WARN, &"\u{e4}".repeat(LONGEST));
        assert!((LONGEST_PASSED_ON - 1..=LONGEST_PASSED_ON).contains(&long.len()));
        for (line, message) in [
            (&b"<3>x\r\n"[..], &b"<3>x"[..]),
            (b"\n", b""),
            (b"<4", b"<4"),
        ] {
            assert_eq!(read_passed_on(line), (Level::WARN, message));
        }
    }

    #[test]
    fn causes_follow_their_effect() {
        let error = LogError {
            path: "/l".into(),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        };
        assert_eq!(
            chain(&error),
            "can't open the log file /l: No such file or directory (os error 2)"
        );
    }
}
