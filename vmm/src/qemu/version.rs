//! Which version a QEMU is.

use std::fmt;
use std::path::Path;

use super::ask::Question;

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

/// The version of the QEMU at `path`; what is wrong with it if it gives none.
pub(super) fn of(path: &Path) -> Result<Version, String> {
    let said = Question::version(path)?.answer()?;
    parse(&said).ok_or("it gives no version".into())
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
