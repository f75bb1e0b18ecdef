//! `nacre console`: what the guest's kernel has logged.

use nacre_agent::protocol::Answer;

use crate::{
    isolation::vm::{
        error::{ClientError, VmError},
        found::VmContainer,
        wire::GuestAsk,
    },
    state::Status,
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

/// Replaces what isn't text: a guest says what it likes.
fn harmless(text: &str) -> String {
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    let chars = text
        .chars()
        .map(|c| if is_text(c) { c } else { '\u{fffd}' });
    chars.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_none_of_it() {
        assert_eq!(
            harmless("a\tb\n\x1b[2Jc\r\u{9b}d"),
            "a\tb\n\u{fffd}[2Jc\u{fffd}\u{fffd}d"
        );
    }
}
