//! The sandbox process's connections, for fuzzing.

use std::{io::Write, os::unix::net::UnixStream};

use nacre_agent::protocol::Event;
use serde::de::DeserializeOwned;

use super::{control::Control, sandbox, wire::Ask};

/// What the agent says.
pub(crate) fn agent(said: &[u8]) {
    hear::<Event>(said);
}

/// What whoever connects to a container's socket says.
pub(crate) fn commands(said: &[u8]) {
    hear::<Ask>(said);
}

/// What a monitor writes to the pipes of its messages and of its guest's console.
pub(crate) fn logs(said: &[u8]) {
    sandbox::read_logs(said);
}

fn hear<T: DeserializeOwned>(said: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().expect("there are sockets");
    let mut control = Control::new(ours).expect("sockets can be changed");
    for part in said.chunks(1024) {
        theirs.write_all(part).expect("it has room");
        loop {
            match control.receive::<T>() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}
