//! What a command says of itself: one line an event, on standard error and in the file that
//! `--log` names, in runc's forms.
//!
//! Errors go to both. Warnings and (with `--debug`) debug messages go to the file if there is
//! one, to standard error otherwise.

use std::{
    error::Error,
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::{Level, Metadata, Subscriber, field::Field, span};

use crate::cli::{Global, LogFormat};

/// Why the log file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't open the log file {path}")]
pub(crate) struct LogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

struct Log {
    file: Option<File>,
    format: LogFormat,
    most_verbose: Level,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Opens the log, and sends what libraries trace to it.
pub(crate) fn init(options: &Global) -> Result<(), LogError> {
    let file = match &options.log {
        Some(path) => Some(
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map_err(|source| LogError {
                    path: path.clone(),
                    source,
                })?,
        ),
        None => None,
    };
    let log = LOG.get_or_init(|| Log {
        file,
        format: options.log_format,
        most_verbose: if options.debug {
            Level::DEBUG
        } else {
            Level::WARN
        },
    });
    // Fails only if there is a subscriber already, that is, never outside tests.
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

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors of libraries quote their cause themselves.
        let text = error.to_string();
        if !message.contains(&text) {
            let _ = write!(message, ": {text}");
        }
        cause = error.source();
    }
    message
}

impl Log {
    fn write(&self, level: Level, message: &str) {
        let message = one_line(message);
        if let Some(mut file) = self.file.as_ref() {
            let line = match self.format {
                LogFormat::Json => json_line(level, &message, SystemTime::now()),
                LogFormat::Text => text_line(level, &message, SystemTime::now()),
            };
            // One write a line, so that the lines of several processes don't mix.
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

/// Makes a message that may quote a guest safe for a terminal, and one line.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.chars() {
        match c {
            '\n' => line.push_str(" | "),
            '\r' => {}
            '\t' => line.push(' '),
            c if c.is_control() => line.push('\u{fffd}'),
            c => line.push(c),
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
    // JSON's quoting is as good as any here: no control character is left in the message.
    let quoted = serde_json::Value::from(message);
    format!(
        "time=\"{}\" level={} msg={quoted}\n",
        rfc3339(time),
        name(level)
    )
}

/// A time as RFC 3339 has it, in UTC, to the second.
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

/// What libraries say through `tracing`; spans aren't used.
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
        self.write(
            *event.metadata().level(),
            &format!("{}{}", message.text, message.fields),
        );
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
