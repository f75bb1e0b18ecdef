//! How much a container has written over a root that is an overlay: what `nacre state` says.

use std::time::Duration;

use nacre_agent::protocol;
use serde::Serialize;

use crate::{config::rootfs::Upper, state::Status};

use super::client::{Client, ClientError};
use crate::isolation::vm::{
    Found,
    wire::{Answer, Ask},
};

/// How long the guest may take to say it: a state is told without it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a container has written over its root, in bytes, as far as it could be found out.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    /// `memory`, the guest's, or `disk`.
    storage: &'static str,
    /// The most that it may be: as it was asked for.
    limit: u64,
    /// What the guest uses. `None` if it can't be asked, because it boots, is paused or doesn't
    /// answer in time.
    used: Option<u64>,
    /// What a disk's image takes of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated: Option<u64>,
}

/// What a container that stands so has written; `None` if it writes to the host's directory, or
/// has ended, and with it what it wrote.
pub(crate) fn difference(found: &Found<'_>, status: Status) -> Option<Difference> {
    let (storage, limit) = match found.vm.upper.as_ref()? {
        _ if status == Status::Stopped => return None,
        Upper::Memory { limit } => ("memory", *limit),
        Upper::Disk { size, .. } => ("disk", *size),
    };
    let mut difference = Difference {
        storage,
        limit,
        used: None,
        allocated: None,
    };
    if status != Status::Creating
        && let Err(error) = difference.ask(found, status)
    {
        tracing::debug!("can't tell what the container has written: {error}");
    }
    Some(difference)
}

impl Difference {
    fn ask(&mut self, found: &Found<'_>, status: Status) -> Result<(), ClientError> {
        let mut client = Client::connect(&found.folder)?;
        if let Answer::Disk { allocated } = client.ask(&Ask::Disk, TIMEOUT)? {
            self.allocated = allocated;
        }
        if status != Status::Paused
            && let protocol::Answer::Written { used, .. } =
                client.ask_guest(protocol::Request::Written, TIMEOUT)?
        {
            self.used = Some(used);
        }
        Ok(())
    }
}
