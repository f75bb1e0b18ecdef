//! A number of bytes, as people write it.

use std::{fmt, str::FromStr};

use serde::Deserialize;

const MIB: u64 = 1 << 20;

/// A number of bytes; as text, a number optionally followed by K, M, G or T (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Bytes(pub(crate) u64);

/// A text that isn't a size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} isn't a size: bytes, or with K, M, G or T at the end")]
pub(crate) struct NotASize(String);

impl NotASize {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }
}

impl FromStr for Bytes {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let (digits, shift) = match text.bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            Some(b'T' | b't') => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        // u64's own parser accepts a leading plus.
        let number = digits.bytes().all(|b| b.is_ascii_digit());
        match digits.parse::<u64>() {
            Ok(n) if number => n
                .checked_mul(1 << shift)
                .map(Self)
                .ok_or_else(|| NotASize(text.into())),
            _ => Err(NotASize(text.into())),
        }
    }
}

impl TryFrom<String> for Bytes {
    type Error = NotASize;

    fn try_from(text: String) -> Result<Self, NotASize> {
        text.parse()
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % MIB == 0 => write!(f, "{} MiB", bytes / MIB),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_sizes() {
        for (text, bytes) in [
            ("1", 1),
            ("536870912", 512 * MIB),
            ("512M", 512 * MIB),
            ("512m", 512 * MIB),
            ("4K", 4096),
            ("1G", 1024 * MIB),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in [
            "",
            "M",
            "1.5G",
            "-1",
            "+1",
            "1 G",
            "1GB",
            "0x10",
            "99999999999T",
            "é",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
