//! `nacre console`: what the guest's kernel has logged.

use nacre_agent::protocol::Answer;

use crate::{
    isolation::vm::{
        error::{ClientError, VmError},
        found::VmContainer,
        wire::GuestAsk,
    },
    state::Status,
    text::harmless,
};

use super::client::TIMEOUT;

/// Returns it, with nothing in it that a terminal would obey.
pub(crate) fn kernel_log(found: &VmContainer<'_>, status: Status) -> Result<String, VmError> {
    if status == Status::Stopped {
        return Err(found.not_running(status));
    }
    let mut client = found.connect()?;
    match client.ask_guest(GuestAsk::KernelLog, TIMEOUT)? {
        Answer::KernelLog(log) => Ok(harmless(&log)),
        _ => Err(ClientError::Unasked.into()),
    }
}
