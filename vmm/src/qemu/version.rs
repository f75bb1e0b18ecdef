//! Which version a QEMU is.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a QEMU may take to say its version.
const LIMIT: Duration = Duration::from_secs(5);

/// How often it is asked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// How much of what it says is read.
const MOST: u64 = 1024;

/// What comes before the version.
const BEFORE: &str = "QEMU emulator version ";

/// A version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Runs `path --version`; what is wrong with it if it gives none.
pub(super) fn of(path: &Path) -> Result<Version, String> {
    let mut child = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("it can't be run: {e}"))?;
    let deadline = Instant::now() + LIMIT;
    // What it says fits into the pipe, so it needn't be read meanwhile.
    let status = loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Ok(Some(status)) => break status,
            waited => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(match waited {
                    Err(error) => format!("it can't be waited for: {error}"),
                    Ok(_) => format!("it didn't end within {} s", LIMIT.as_secs()),
                });
            }
        }
    };
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        let _ = output.take(MOST).read_to_end(&mut said);
    }
    match status.success() {
        true => parse(&String::from_utf8_lossy(&said)).ok_or("it gives no version".into()),
        false => Err(format!("--version ends with {status}")),
    }
}

fn parse(said: &str) -> Option<Version> {
    let mut numbers = said
        .strip_prefix(BEFORE)?
        .split(|c: char| !c.is_ascii_digit());
    Some(Version {
        major: numbers.next()?.parse().ok()?,
        minor: numbers.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        let version = |major, minor| Version { major, minor };
        assert_eq!(parse(debian), Some(version(7, 2)));
        assert_eq!(
            parse("QEMU emulator version 10.0.0\n"),
            Some(version(10, 0))
        );
        assert_eq!(parse("QEMU emulator version x"), None);
        assert_eq!(parse("GNU bash, version 5.2"), None);
        assert!(version(7, 1) < version(7, 2) && version(7, 2) < version(10, 0));
    }
}
