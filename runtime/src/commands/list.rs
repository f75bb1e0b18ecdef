//! `nacre list`: lists all containers.

use serde_json::{Value, json};

use crate::{
    cli::{Format, Global, List},
    state::Seen,
};

use super::{
    containers::store,
    error::Error,
    output::{print, print_json},
    state::{document, pid},
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

/// Returns the name of the user who created the container, or `#UID` if the user has none.
///
/// Only the file is read: to ask other services, the C library loads parts of itself at run time,
/// which a static program can't do.
fn owner(seen: &Seen) -> String {
    let uid = seen.record.owner;
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name(&users, uid).map_or_else(|| format!("#{uid}"), str::to_owned)
}

/// passwd(5): `NAME:PASSWORD:UID:…`
fn name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_number() {
        let users = "root:x:0:0::/root:/bin/sh\nbroken\n:x\nann:x:1000:5::/:\nbob:x:1000:5::/:\n";
        for (uid, expected) in [(0, Some("root")), (1000, Some("ann")), (5, None)] {
            assert_eq!(name(users, uid), expected);
        }
    }
}
