//! How much a container has written to a root that is an overlay, as `nacre state` reports it.

use std::time::Duration;

use nacre_agent::protocol;
use serde::Serialize;

use crate::{
    config::rootfs::Upper,
    isolation::vm::{
        error::ClientError,
        found::VmContainer,
        wire::{Answer, Ask, GuestAsk},
    },
    state::Status,
};

/// How long the guest may take to say it: a state is reported without it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a container has written to its root, in bytes, as far as that could be found out.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    /// `memory`, which is the guest's, or `disk`.
    storage: &'static str,
    /// The most that it may be: as configured.
    limit: u64,
    /// What the guest uses. `None` if it can't be asked, because it is booting, is paused or
    /// doesn't answer in time.
    used: Option<u64>,
    /// What a disk's image takes up on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated: Option<u64>,
}

/// Returns what a container with this status has written; `None` if it writes to the host's
/// directory, or has ended, and what it wrote is gone with it.
pub(crate) fn difference(found: &VmContainer<'_>, status: Status) -> Option<Difference> {
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
    fn ask(&mut self, found: &VmContainer<'_>, status: Status) -> Result<(), ClientError> {
        let mut client = found.connect()?;
        if let Answer::Disk { allocated } = client.ask(&Ask::Disk, TIMEOUT)? {
            self.allocated = allocated;
        }
        if status != Status::Paused
            && let protocol::Answer::Written { used, .. } =
                client.ask_guest(GuestAsk::Written, TIMEOUT)?
        {
            self.used = Some(used);
        }
        Ok(())
    }
}
