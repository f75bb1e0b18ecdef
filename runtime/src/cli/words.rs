//! Words that several commands share: the form of what they print, and an id with what follows it.

use clap::ValueEnum;

/// A container's id and what follows it, which isn't nacre's to understand: even what looks like
/// a flag isn't one.
pub(super) fn id_and_rest(words: &[String]) -> (&str, &[String]) {
    match words.split_first() {
        Some((id, rest)) => (id, rest),
        None => ("", &[]),
    }
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For a person
    Table,
    /// For a program
    Json,
}
