//! What commands print.

use std::io::{self, Write};

use super::error::Error;

/// Prints to standard output.
pub(in crate::commands) fn print(text: &str) -> Result<(), Error> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(Error::Output)
}

/// Prints a document as JSON, for programs and people.
pub(in crate::commands) fn print_json(document: &serde_json::Value) -> Result<(), Error> {
    print(&format!("{document:#}\n"))
}
