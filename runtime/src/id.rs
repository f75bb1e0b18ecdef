//! A container's id.

use std::fmt;

/// A container's id: a file name made of ASCII letters, digits, `_`, `+`, `-` and `.`, as in runc.
/// It names the container's folder in the state directory, so it can't be `.` or `..` or contain a
/// `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Id(String);

/// The maximum length of a file name on Linux.
const MAX_LENGTH: usize = 255;

/// Why a string isn't an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdError {
    #[error("a container's id can't be empty")]
    Empty,
    #[error("a container's id has at most {MAX_LENGTH} characters, this one has {0}")]
    TooLong(usize),
    #[error("container id {0:?}: only letters, digits, '_', '+', '-' and '.' can be in an id")]
    Character(String),
    #[error("container id {0:?} is a directory's name for itself or its parent")]
    Dots(String),
}

impl Id {
    pub(crate) fn new(id: &str) -> Result<Self, IdError> {
        if id.is_empty() {
            return Err(IdError::Empty);
        }
        if id.len() > MAX_LENGTH {
            return Err(IdError::TooLong(id.len()));
        }
        if !id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b))
        {
            return Err(IdError::Character(id.into()));
        }
        if id == "." || id == ".." {
            return Err(IdError::Dots(id.into()));
        }
        Ok(Self(id.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runc_takes_is_taken() {
        for id in ["a", "A-1", "x_y+z.0", "...", "-", &"x".repeat(255)] {
            assert_eq!(Id::new(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn what_could_leave_the_state_directory_is_refused() {
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "../a",
            "/",
            "a b",
            "ä",
            "a\n",
            "a\0",
            &"x".repeat(256),
        ] {
            assert!(Id::new(id).is_err(), "{id:?}");
        }
    }
}
