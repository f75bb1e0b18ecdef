//! `nacre list`: all containers.

use nix::unistd::{Uid, User};
use serde_json::{Value, json};

use crate::{
    cli::{Format, Global, List},
    error::Error,
    state::Seen,
};

use super::{
    print, print_json,
    state::{document, pid},
    store,
    table::Table,
};

pub(super) fn list(global: &Global, arguments: &List) -> Result<u8, Error> {
    let containers = store(global)?.list()?;
    if arguments.quiet {
        let ids: String = containers
            .iter()
            .map(|seen| format!("{}\n", seen.record.id))
            .collect();
        print(&ids)?;
    } else if arguments.format == Format::Json {
        print_json(&Value::Array(containers.iter().map(entry).collect()))?;
    } else {
        print(&table(&containers).to_string())?;
    }
    Ok(0)
}

fn entry(seen: &Seen) -> Value {
    let mut entry = document(seen);
    entry["owner"] = json!(owner(seen));
    entry
}

/// The name of who created the container, or `#UID` if the user has none.
fn owner(seen: &Seen) -> String {
    let uid = seen.record.owner;
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("#{uid}"),
    }
}

fn table(containers: &[Seen]) -> Table<6> {
    let mut table = Table::new(["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    for seen in containers {
        let record = &seen.record;
        table.row([
            record.id.clone(),
            pid(seen).to_string(),
            seen.status.to_string(),
            record.bundle.display().to_string(),
            record.created.clone(),
            owner(seen),
        ]);
    }
    table
}
