//! `nacre events`: what a container uses, and that it ran out of memory, a line of JSON each.

use serde_json::json;

use crate::{
    cli::{Events, Global},
    error::Error,
    id::Id,
    isolation::process::{self, Event},
};

use super::{on_host, print, store};

pub(super) fn events(global: &Global, arguments: &Events) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    let found = on_host(&store, &id, &seen.record, "events")?;
    if arguments.stats {
        tell(&id, process::stats(&found, seen.status)?)?;
    } else {
        process::watch(&found, seen.status, arguments.interval.0, |event| {
            tell(&id, event)
        })?;
    }
    Ok(0)
}

fn tell(id: &Id, event: Event) -> Result<(), Error> {
    let id = id.as_str();
    let line = match event {
        Event::Stats(stats) => json!({"type": "stats", "id": id, "data": stats}),
        Event::Oom => json!({"type": "oom", "id": id}),
    };
    print(&format!("{line}\n"))
}
