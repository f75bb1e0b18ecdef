//! What the runtime and the agent in the guest say to each other.
//!
//! *Control*: one vsock stream that the agent opens to [`CONTROL_PORT`] on the host. Each
//! message is a little-endian `u32` length and that many bytes of JSON. The agent speaks
//! first, with [`Hello`]; then the host sends [`Request`]s, each answered by one
//! [`Event::Reply`], and the agent sends [`Event`]s of its own accord.
//!
//! *Streams*: a raw vsock stream for each of stdin, stdout and stderr (or one for a
//! terminal), which the agent opens to a port that the host named in the request. Bytes on
//! them are never parsed. End of file is a half-close, in both directions.
//!
//! The host doesn't trust the guest: a message is at most [`MAX_MESSAGE`] bytes, whoever
//! sends it, and what it says is checked by whoever reads it.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of this protocol. Host and agent must agree exactly: they are built together.
pub const VERSION: u32 = 1;

/// The vsock port of the host (CID 2) that the agent connects to.
pub const CONTROL_PORT: u32 = 1024;

/// The longest message, in bytes of JSON. A `config.json` is the largest thing sent.
pub const MAX_MESSAGE: usize = 4 << 20;

/// The agent's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The agent's [`VERSION`].
    pub version: u32,
    /// The guest kernel's release, as `uname -r` prints it.
    pub kernel: String,
}

/// What the host asks of the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Prepare a container and stop before its workload's exec (OCI `create`).
    Create(Box<Create>),
    /// Let a created container's workload go (OCI `start`).
    Start {
        /// The container.
        id: String,
    },
    /// Send a signal to the container's first process.
    Signal {
        /// The container.
        id: String,
        /// The signal's number.
        signal: i32,
    },
    /// Write back what is cached and power the guest off. The reply may never arrive.
    PowerOff,
}

/// A container to create.
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// The container's id.
    pub id: String,
    /// Its `config.json`. Host paths in it (the root, bind mounts' sources) have been
    /// replaced by guest paths below [`SHARE`].
    pub spec: oci_spec::runtime::Spec,
    /// Ports of its standard streams.
    pub streams: Streams,
}

/// Where the guest mounts the one virtio-fs that the host shares with it: its tag is
/// [`SHARE_TAG`], `rootfs` below it is the container's root, `mounts/N` the sources of its
/// bind mounts.
pub const SHARE: &str = "/run/nacre/share";

/// The virtio-fs tag of [`SHARE`].
pub const SHARE_TAG: &str = "nacre";

/// The vsock ports that the agent connects to for a process's standard streams. A stream
/// without a port is `/dev/null`. Standard output and error may have the same port: they are
/// one stream then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input.
    pub stdin: Option<u32>,
    /// Standard output.
    pub stdout: Option<u32>,
    /// Standard error.
    pub stderr: Option<u32>,
}

/// What the agent tells the host after its hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The answer to the oldest unanswered request.
    Reply {
        /// What became of it.
        result: Result<(), Failure>,
    },
    /// A container's first process has ended, all its output has been sent, and every other
    /// process of the container is gone.
    Exited {
        /// The container.
        id: String,
        /// Its exit status, 128+n for a signal.
        status: u8,
        /// Whether the container's memory limit killed one of its processes.
        oom_killed: bool,
    },
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened, for a person.
    pub message: String,
    /// The exit status that the runtime's command ends with: 127 for a program that isn't
    /// there, 126 for one that can't be executed, 1 for anything else.
    pub status: u8,
}

/// Writes one message.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] if it is longer than [`MAX_MESSAGE`]; otherwise what
/// writing gives.
pub fn send<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {length} bytes is over the limit of {MAX_MESSAGE}"),
        ));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    to.write_all(&frame)
}

/// Reads one message; `None` at an end of file between messages.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] for a length over [`MAX_MESSAGE`] or JSON that is not a
/// `T`; [`io::ErrorKind::UnexpectedEof`] for an end within a message; otherwise what reading
/// gives.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let first = loop {
        match from.read(&mut length) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[first..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message claims {length} bytes, over the limit of {MAX_MESSAGE}"),
        ));
    }
    // Grows with what arrives, not with what the length claims.
    let mut json = Vec::new();
    let arrived = from.take(length as u64).read_to_end(&mut json)?;
    if arrived < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&json)
        .map(Some)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            kernel: "6.12".into(),
        }
    }

    #[test]
    fn a_message_survives_the_wire() {
        let mut wire = Vec::new();
        send(&mut wire, &hello()).unwrap();
        let exited = Event::Exited {
            id: "a".into(),
            status: 137,
            oom_killed: true,
        };
        send(&mut wire, &exited).unwrap();
        let mut from = wire.as_slice();
        assert_eq!(receive::<Hello>(&mut from).unwrap(), Some(hello()));
        assert_eq!(receive::<Event>(&mut from).unwrap(), Some(exited));
        assert_eq!(receive::<Event>(&mut from).unwrap(), None);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_is_read() {
        let wire = (MAX_MESSAGE as u32 + 1).to_le_bytes();
        let error = receive::<Hello>(&mut wire.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_end_within_a_message_is_an_error() {
        let mut wire = Vec::new();
        send(&mut wire, &hello()).unwrap();
        for cut in [2, 4, wire.len() - 1] {
            let error = receive::<Hello>(&mut &wire[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_the_message_is_an_error() {
        let wire = [3, 0, 0, 0, b'n', b'o', b'!'];
        let error = receive::<Hello>(&mut wire.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
