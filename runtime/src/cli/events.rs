//! The flags of `nacre events`.

use std::{str::FromStr, time::Duration};

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// How long after one another to tell what is used, such as 5s, 500ms or 1m30s
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub(crate) interval: Interval,
    /// Tell what is used now, and end
    #[arg(long)]
    pub(crate) stats: bool,
    /// The container's id
    pub(crate) id: String,
}

/// A length of time that isn't 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval(pub(crate) Duration);

/// A text that isn't one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} isn't a length of time over 0, such as 5s, 500ms or 1m30s")]
pub(crate) struct NotAnInterval(String);

impl FromStr for Interval {
    type Err = NotAnInterval;

    fn from_str(text: &str) -> Result<Self, NotAnInterval> {
        match parse(text) {
            Some(duration) if !duration.is_zero() => Ok(Self(duration)),
            _ => Err(NotAnInterval(text.into())),
        }
    }
}

/// Numbers, perhaps with a fraction, each with its unit.
fn parse(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        let part = Duration::try_from_secs_f64(number * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_in_go() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("1h", 3_600_000),
        ] {
            let interval = Interval(Duration::from_millis(milliseconds));
            assert_eq!(text.parse(), Ok(interval), "{text}");
        }
        for text in ["", "5", "s", "0s", "-1s", "5x", "1s5", "1..5s", "9e99s"] {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
    }
}
