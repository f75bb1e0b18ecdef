//! Finds out a QEMU's version.

use std::path::Path;

use super::ask::Question;
use crate::hypervisor::Version;

/// The text before the version.
const BEFORE: &str = "QEMU emulator version ";

/// Asks the QEMU at `path` for its version; the error says what is wrong with it if it doesn't give
/// one.
pub(super) fn ask(path: &Path) -> Result<Version, String> {
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
