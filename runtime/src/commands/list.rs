//! `nacre list`: all containers.

use std::fmt::Write;

use serde_json::Value;

use crate::{
    cli::{Global, List, ListFormat},
    error::Error,
    state::Seen,
};

use super::{print, print_json, state::document, store};

pub(super) fn list(global: &Global, arguments: &List) -> Result<u8, Error> {
    let containers = store(global)?.list()?;
    if arguments.quiet {
        let ids: String = containers
            .iter()
            .map(|seen| format!("{}\n", seen.record.id))
            .collect();
        print(&ids)?;
    } else if arguments.format == ListFormat::Json {
        print_json(&Value::Array(containers.iter().map(document).collect()))?;
    } else {
        print(&table(&containers))?;
    }
    Ok(0)
}

fn table(containers: &[Seen]) -> String {
    let width = containers
        .iter()
        .map(|seen| seen.record.id.len())
        .fold(10, usize::max);
    let mut table = String::new();
    let mut row = |id: &str, pid: &str, status: &str, created: &str, bundle: &str| {
        // Writing to a string can't fail.
        let _ = writeln!(
            table,
            "{id:width$}  {pid:8}  {status:8}  {created:20}  {bundle}"
        );
    };
    row("ID", "PID", "STATUS", "CREATED", "BUNDLE");
    for Seen { record, status } in containers {
        row(
            &record.id,
            &record.pid.to_string(),
            &status.to_string(),
            &record.created,
            &record.bundle.display().to_string(),
        );
    }
    table
}
