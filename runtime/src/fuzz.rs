//! The doors through which bytes of others come into the runtime, as the fuzzing in `fuzz/` opens
//! them. A panic is a finding.

use crate::{isolation::vm::fuzz, state::Record};

/// What a guest's agent says to the sandbox process.
pub fn agent(said: &[u8]) {
    fuzz::agent(said);
}

/// What somebody says who connects to the socket in a container's folder.
pub fn commands(said: &[u8]) {
    fuzz::commands(said);
}

/// What a monitor that was taken over writes to the pipes of its messages and of its guest's console.
pub fn logs(said: &[u8]) {
    fuzz::logs(said);
}

/// A container's record, as whoever can write to the state's directory has left it.
pub fn record(json: &[u8]) {
    // An error is what most deserve.
    drop(serde_json::from_slice::<Record>(json));
}
