//! The protocol between the runtime and the agent in the guest.
//!
//! *Control*: one vsock stream that the agent opens to [`CONTROL_PORT`] on the host. Each
//! message is a little-endian `u32` length and that many bytes of JSON. The agent speaks
//! first, with [`Hello`]; then the host sends [`Request`]s, each answered by one
//! [`Event::Reply`], and the agent sends [`Event`]s of its own accord.
//!
//! *Streams*: a raw vsock stream for each of stdin, stdout and stderr (or one for a terminal),
//! which the agent opens to a port that the host has named in the request. Bytes on them are never
//! parsed. End of file is a half-close, in both directions.
//!
//! The host doesn't trust the guest: a message is at most [`MAX_MESSAGE`] bytes, whoever sends it,
//! and its receiver checks its contents.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::network::Network;
use crate::stats::{Stats, Used};

/// The version of this protocol. Host and agent must have the same: they are built together.
pub const VERSION: u32 = 5;

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

/// What the host asks of the agent. Where nothing else is said, a request that succeeds is answered
/// with [`Answer::Done`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Prepare a container and stop before its workload's exec (OCI `create`).
    Create(Box<Create>),
    /// Start a created container's workload (OCI `start`).
    Start {
        /// The container.
        id: String,
    },
    /// Send a signal to processes of a container.
    Signal {
        /// The container.
        id: String,
        /// The signal's number.
        signal: i32,
        /// Which of its processes get it.
        to: Target,
    },
    /// Start another process in a container: [`Answer::Executed`].
    Exec(Box<Exec>),
    /// Change the size of a process's terminal.
    Resize {
        /// The container.
        id: String,
        /// The number of a process that [`Request::Exec`] has started; `None` for the container's
        /// first one.
        process: Option<u32>,
        /// The size.
        size: WindowSize,
    },
    /// List a container's processes: [`Answer::Processes`].
    Processes {
        /// The container.
        id: String,
    },
    /// Report what a container uses: [`Answer::Stats`].
    Stats {
        /// The container.
        id: String,
    },
    /// Report how much the guest keeps of what was written to a root that is an overlay:
    /// [`Answer::Written`].
    Written,
    /// Change those of a container's limits that are given.
    Update {
        /// The container.
        id: String,
        /// The limits, as in `linux.resources`.
        resources: Box<LinuxResources>,
    },
    /// Make a container's network what it is on the host: all of it, each time. It may be sent
    /// before the container is created.
    Network {
        /// The container.
        id: String,
        /// The network.
        network: Box<Network>,
    },
    /// Drop the caches of files that nobody uses: the host keeps each of these files open.
    ForgetFiles,
    /// Move the guest's wall clock, if a correction is given, and report what it shows:
    /// [`Answer::Clock`].
    Clock(Option<Correction>),
    /// Report what the kernel has logged: [`Answer::KernelLog`].
    KernelLog,
    /// Answer, to show that the guest isn't frozen.
    Ping,
}

/// A container to create.
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// The container's id.
    pub id: String,
    /// Its `config.json`. Host paths in it (the root, bind mounts' sources) have been replaced by
    /// guest paths below [`SHARE`], the root's by [`ROOT`] or, if the root is an overlay,
    /// [`OVERLAY`].
    pub spec: Spec,
    /// Whether there is a [`SHARE`].
    pub has_share: bool,
    /// The mounts in what is shared, each before those below it.
    pub mounts: Vec<SharedMount>,
    /// Where the container's writes to its root are kept, if not in the root itself.
    pub upper: Option<Upper>,
    /// Its bundle's directory on the host, which is passed to hooks.
    pub bundle: PathBuf,
    /// The ports of its standard streams.
    pub streams: Streams,
    /// Leave it in the agent's session keyring instead of giving it its own.
    pub no_new_keyring: bool,
}

/// A process to start in a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The container.
    pub id: String,
    /// The number that the host chooses for the process.
    pub number: u32,
    /// The process to start.
    pub process: Process,
    /// The ports of its standard streams.
    pub streams: Streams,
    /// The cgroups below the container's to put it in, each with the controller whose hierarchy it
    /// is in, or an empty name for all.
    pub cgroups: Vec<(String, PathBuf)>,
}

/// Which processes of a container a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The first one.
    First,
    /// All of them.
    All,
    /// The one with this number that [`Request::Exec`] has started.
    Process(u32),
}

/// How far a guest's wall clock is to be moved forward, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Correction {
    /// At once.
    Step(i64),
    /// Gradually, by running slightly faster or slower for a while.
    Slew(i64),
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// A mount on the host, in the container's root or in the source of a bind mount.
///
/// The guest's kernel mounts below a virtio-fs what is a mount on the host, but only once somebody
/// has opened it, and with the flags of the mount above. The agent opens each mount, and gives it
/// its own flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMount {
    /// The root or the source, by its path in the guest.
    pub top: PathBuf,
    /// Where below that it is mounted; empty if it is that itself.
    pub below: OsString,
    /// Its flags, as mount options.
    pub flags: String,
}

/// Where the guest mounts the container's root, a virtio-fs with the tag [`ROOT_TAG`].
pub const ROOT: &str = "/run/nacre/rootfs";

/// The virtio-fs tag of [`ROOT`].
pub const ROOT_TAG: &str = "rootfs";

/// Where the guest mounts everything else that the host shares with it, a virtio-fs with the tag
/// [`SHARE_TAG`]: `mounts/N` below it are the sources of the container's bind mounts, `hooks/N` the
/// programs of its `createContainer` hooks.
///
/// It is separate from the root's virtio-fs because each of these is a file system of its own,
/// which Linux mounts below the virtio-fs as a submount. Submounts have no access control lists,
/// and for each write to them the guest first asks the host for the file's capabilities.
pub const SHARE: &str = "/run/nacre/share";

/// The virtio-fs tag of [`SHARE`].
pub const SHARE_TAG: &str = "share";

/// Where the guest mounts a container's root that is an overlay: [`ROOT`] is the lower layer, an
/// [`Upper`] the upper one.
pub const OVERLAY: &str = "/run/nacre/overlay";

/// Where a container's writes to an overlay are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upper {
    /// In the guest's memory.
    Memory {
        /// The most memory that it takes, in bytes.
        limit: u64,
    },
    /// On the guest's disk, which has an empty ext4 file system.
    Disk,
}

/// The vsock ports that the agent connects to for a process's standard streams. A stream without a
/// port is `/dev/null`. If standard output and error have the same port, they are one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input.
    pub stdin: Option<u32>,
    /// Standard output.
    pub stdout: Option<u32>,
    /// Standard error.
    pub stderr: Option<u32>,
    /// The terminal of a process that is to have one (`process.terminal`), instead of the other
    /// streams: carries what is typed and what it shows. The host hangs up by closing it.
    pub terminal: Option<u32>,
}

/// What the agent tells the host after its hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The answer to the oldest unanswered request.
    Reply {
        /// The outcome.
        result: Result<Answer, Failure>,
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
        /// What all of them have used, if the guest could tell.
        used: Option<Used>,
    },
    /// A process that [`Request::Exec`] has started has ended, and all its output has been sent.
    /// That may be after the container's end, if nobody reads that output.
    ProcessExited {
        /// The container.
        id: String,
        /// The process's number.
        process: u32,
        /// Its exit status, 128+n for a signal.
        status: u8,
    },
    /// A container's memory limit has killed some of its processes.
    OutOfMemory {
        /// The container.
        id: String,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The request is done.
    Done,
    /// The process is running.
    Executed {
        /// Its pid in the guest.
        pid: i32,
    },
    /// A container's processes, in the order of their pids.
    Processes(Vec<ProcessEntry>),
    /// What a container uses.
    Stats(Box<Stats>),
    /// What the kernel has logged, up to 512 KiB of it.
    KernelLog(String),
    /// What the guest's wall clock shows, in nanoseconds since 1970.
    Clock(i64),
    /// What an [`Upper`] holds.
    Written {
        /// In bytes, including directories and the like.
        used: u64,
        /// In bytes.
        limit: u64,
    },
}

/// A process, as ps(1) describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// Its pid in the guest.
    pub pid: i32,
    /// Its parent's pid.
    pub parent: i32,
    /// Its effective user.
    pub uid: u32,
    /// The name of its terminal, like `pts/0`, if it has one.
    pub terminal: Option<String>,
    /// How long ago it was started, in seconds.
    pub age: u64,
    /// The CPU time that it has used, in seconds.
    pub cpu_time: u64,
    /// Its arguments, or its name in brackets if it has none.
    pub command: String,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened, for a person.
    pub message: String,
    /// The exit status of the runtime's command: 127 for a program that doesn't exist, 126 for one
    /// that can't be executed, 1 for anything else.
    pub status: u8,
}

/// Writes one message.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] if it is longer than [`MAX_MESSAGE`]; otherwise the writer's
/// error.
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

/// Reads one message; `None` for an end of file between messages.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] for a length over [`MAX_MESSAGE`] or JSON that is not a `T`;
/// [`io::ErrorKind::UnexpectedEof`] for an end within a message; otherwise the reader's error.
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
    // Grows with the bytes received, not with the length claimed.
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
            used: Some(Used {
                cpu: 3,
                cpu_in_kernel: 2,
                memory: 1,
            }),
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
