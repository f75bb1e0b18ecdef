//! The last step of the sandbox process: ends the machine, and says what the conversation with its
//! guest came to.

use nacre_agent::container::cgroups::Cgroup;
use nacre_vmm::{Exit, monitor::Monitor};

use crate::isolation::vm::error::VmError;

use super::session::Exited;

/// Ends the machine, whose cgroup this is. What it says of its end explains what went wrong before.
pub(super) fn end(
    machine: Monitor,
    outcome: Result<Exited, VmError>,
    cgroup: Option<&Cgroup>,
) -> Result<Exited, VmError> {
    let (ended, console) = machine.finish();
    explained(outcome, ended, console).map_err(|error| match error {
        // What the kernel kills first are these.
        VmError::Failed(nacre_vmm::Error::QemuEnded { .. }) => {
            VmError::host_memory("QEMU", cgroup).unwrap_or(error)
        }
        VmError::Failed(_) => VmError::host_memory("the monitor", cgroup).unwrap_or(error),
        error => error,
    })
}

/// Returns the outcome of a conversation, explained by how its machine ended. A machine that
/// doesn't stop in time explains nothing.
fn explained(
    outcome: Result<Exited, VmError>,
    end: Result<Exit, nacre_vmm::Error>,
    console: String,
) -> Result<Exited, VmError> {
    match (outcome, end) {
        (Err(VmError::Session { error, .. }), Err(failure))
            if error.is_the_guests() && !matches!(failure, nacre_vmm::Error::StopTimeout) =>
        {
            Err(VmError::Failed(failure))
        }
        (Err(VmError::Session { error, .. }), _) if error.is_the_guests() => {
            Err(VmError::Session { error, console })
        }
        (outcome, _) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nacre_vmm::Error;

    use super::*;
    use crate::isolation::vm::error::SessionError;

    #[test]
    fn the_first_error_is_shown_unless_the_machine_knows_better() {
        let said = |failure| {
            let silent = SessionError::NoHello(Duration::from_secs(3));
            let outcome = explained(Err(silent.into()), Err(failure), String::new());
            outcome.unwrap_err().to_string()
        };
        assert!(said(Error::StopTimeout).contains("say hello within 3 s"));
        assert!(said(Error::PauseTimeout).starts_with("the VM failed: "));
    }
}
