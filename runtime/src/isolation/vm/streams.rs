//! A guest process's standard streams on the host: a thread for each carries its bytes, whatever
//! they are, between nacre's descriptor and a vsock stream. A slow reader slows the writer, and
//! either side learns of an end of file, or of a reader that has gone.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    thread,
};

use nacre_agent::protocol::{self, Streams};
use nacre_vmm::devices::virtio::vsock::Ports;
use serde::{Deserialize, Serialize};

use crate::isolation::relay::{End, Relay};

use super::{
    filter,
    stdio::{self, StandardStream},
    terminal::Terminal,
};

/// How many bytes a thread holds at a time: as many as a pipe.
const BUFFER: usize = 64 << 10;

/// Which streams a process is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Wanted {
    /// The standard streams, except those that are `/dev/null`.
    Standard {
        stdin: bool,
        stdout: bool,
        stderr: Stderr,
    },
    /// A terminal.
    Terminal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stderr {
    Null,
    /// The same file as standard output, and so the same stream: what is written to both keeps its
    /// order.
    Stdout,
    Own,
}

impl Wanted {
    /// Returns the streams of a process with that terminal, or else this process's standard
    /// streams.
    pub(super) fn new(terminal: Option<&Terminal>) -> io::Result<Self> {
        if terminal.is_some() {
            return Ok(Self::Terminal);
        }
        let stdout = !StandardStream::Output.is_null()?;
        let stderr = if stdout && StandardStream::Output.is_same(StandardStream::Error)? {
            Stderr::Stdout
        } else if StandardStream::Error.is_null()? {
            Stderr::Null
        } else {
            Stderr::Own
        };
        Ok(Self::Standard {
            stdin: !StandardStream::Input.is_null()?,
            stdout,
            stderr,
        })
    }
}

/// Numbers ports, each used for one stream.
pub(super) struct Expected {
    ports: Ports,
    last: u32,
}

impl Expected {
    pub(super) fn new(ports: Ports) -> Self {
        Self {
            ports,
            last: protocol::CONTROL_PORT,
        }
    }

    /// Expects the guest to connect the streams of a process. Returns the ports that it is to
    /// connect to, and the host's ends.
    pub(super) fn expect(&mut self, wanted: Wanted) -> io::Result<(Streams, Vec<UnixStream>)> {
        let mut streams = Streams::default();
        let mut ends = Vec::new();
        let mut expect = |port: &mut Option<u32>| {
            // No port is used twice, since u32::MAX isn't expected.
            self.last = self.last.saturating_add(1);
            ends.push(self.ports.expect(self.last)?);
            *port = Some(self.last);
            Ok(())
        };
        let mut expect_all = || match wanted {
            Wanted::Terminal => expect(&mut streams.terminal),
            Wanted::Standard {
                stdin,
                stdout,
                stderr,
            } => {
                if stdin {
                    expect(&mut streams.stdin)?;
                }
                if stdout {
                    expect(&mut streams.stdout)?;
                }
                match stderr {
                    Stderr::Null => {}
                    Stderr::Stdout => streams.stderr = streams.stdout,
                    Stderr::Own => expect(&mut streams.stderr)?,
                }
                Ok(())
            }
        };
        match expect_all() {
            Ok(()) => Ok((streams, ends)),
            Err(error) => {
                self.forget(&streams);
                Err(error)
            }
        }
    }

    /// Stops expecting those streams that the guest hasn't connected.
    pub(super) fn forget(&self, streams: &Streams) {
        let Streams {
            stdin,
            stdout,
            stderr,
            terminal,
        } = streams;
        for port in [stdin, stdout, stderr, terminal].into_iter().flatten() {
            self.ports.forget(*port);
        }
    }
}

/// The host's ends of a process's streams, before their threads exist.
pub(super) enum Relays {
    Standard {
        input: Option<UnixStream>,
        /// What goes to standard output and to standard error.
        outputs: Vec<(StandardStream, UnixStream)>,
    },
    /// The caller's own terminal is the process's: what is read from standard input is typed, and
    /// what the process shows goes to standard output.
    Foreground(UnixStream),
    /// Somebody else has the master of this terminal.
    Pair {
        slave: Arc<OwnedFd>,
        stream: UnixStream,
    },
}

impl Relays {
    /// Makes the relays for these ends of streams ([`Expected::expect`]); `None` if their number is
    /// wrong.
    pub(super) fn new(
        wanted: Wanted,
        terminal: Option<&Terminal>,
        ends: Vec<UnixStream>,
    ) -> Option<Self> {
        let mut ends = ends.into_iter();
        let relays = match (wanted, terminal) {
            (Wanted::Terminal, None) => return None,
            (Wanted::Terminal, Some(Terminal::Foreground)) => Self::Foreground(ends.next()?),
            (Wanted::Terminal, Some(Terminal::Pair { slave, .. })) => Self::Pair {
                slave: Arc::clone(slave),
                stream: ends.next()?,
            },
            (
                Wanted::Standard {
                    stdin,
                    stdout,
                    stderr,
                },
                _,
            ) => {
                let input = if stdin { Some(ends.next()?) } else { None };
                let mut outputs = Vec::new();
                for (output, has) in [
                    (StandardStream::Output, stdout),
                    (StandardStream::Error, stderr == Stderr::Own),
                ] {
                    if has {
                        outputs.push((output, ends.next()?));
                    }
                }
                Self::Standard { input, outputs }
            }
        };
        ends.next().is_none().then_some(relays)
    }

    /// Starts the threads. The returned socket is at its end of file once all output has been
    /// written, or nobody is left to read it.
    pub(super) fn start(self) -> io::Result<UnixStream> {
        // Their filter lets threads open nothing.
        stdio::prepare_to_release()?;
        let (done, working) = UnixStream::pair()?;
        match self {
            Self::Standard { input, outputs } => {
                if let Some(stream) = input {
                    spawn("stdin", move || carry_input(&stream))?;
                }
                for (output, stream) in outputs {
                    let working = working.try_clone()?;
                    let name = if output == StandardStream::Output {
                        "stdout"
                    } else {
                        "stderr"
                    };
                    spawn(name, move || {
                        carry_output(&stream, output);
                        drop(working);
                    })?;
                }
            }
            Self::Foreground(stream) => {
                let typed = stream.try_clone()?;
                // The end of the input isn't the terminal's end: that still shows output.
                spawn("typed", move || {
                    carry(StandardStream::Input, typed);
                    let _ = StandardStream::Input.release();
                })?;
                spawn("shown", move || {
                    carry_output(&stream, StandardStream::Output);
                    drop(working);
                })?;
            }
            Self::Pair { slave, stream } => {
                let (to_guest, from_slave) = (stream.try_clone()?, Arc::clone(&slave));
                spawn("typed", move || {
                    carry(from_slave, &to_guest);
                    hang_up(&to_guest);
                })?;
                spawn("shown", move || {
                    if let End::Sink(_) = carry(&stream, slave) {
                        hang_up(&stream);
                    }
                    drop(working);
                })?;
            }
        }
        Ok(done)
    }
}

/// Hangs up the guest's terminal, because the master of the host's is gone.
fn hang_up(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

/// Starts a thread that copies what a guest says. It has no rights, and makes few system calls: what
/// it copies from and to is open.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let body = || match filter::confine_carrier() {
        Ok(()) => work(),
        Err(error) => tracing::warn!("can't carry a stream without rights: {error}"),
    };
    thread::Builder::new().name(name.into()).spawn(body)?;
    Ok(())
}

fn carry_input(stream: &UnixStream) {
    carry(StandardStream::Input, stream);
    // Either way the guest gets an end of file after all there is.
    let _ = stream.shutdown(Shutdown::Write);
    // The writer learns that nobody reads any more.
    let _ = StandardStream::Input.release();
}

fn carry_output(stream: &UnixStream, output: StandardStream) {
    carry(stream, output);
    // Nobody reads any more: the workload's next write fails.
    let _ = stream.shutdown(Shutdown::Both);
    // The workload may have closed its output and gone on; its reader sees the end of file.
    // Standard error stays open, for nacre's own messages.
    if output == StandardStream::Output {
        let _ = output.release();
    }
}

/// Carries until the end of file, or until nobody takes anything any more.
fn carry(from: impl AsFd, to: impl AsFd) -> End {
    Relay::new(from, to, BUFFER).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_expected_for_what_is_wanted_and_no_more() {
        let (_vsock, ports) = nacre_vmm::devices::virtio::vsock::Vsock::new(3).unwrap();
        let mut expected = Expected::new(ports.clone());
        let wanted = Wanted::Standard {
            stdin: true,
            stdout: true,
            stderr: Stderr::Stdout,
        };
        let (streams, ends) = expected.expect(wanted).unwrap();
        assert_eq!(ends.len(), 2);
        assert_eq!(streams.stdout, streams.stderr);
        assert!(streams.stdin != streams.stdout && streams.terminal.is_none());
        assert!(Relays::new(wanted, None, ends).is_some());
        for wrong in 0..4 {
            let ends = (0..wrong).map(|_| UnixStream::pair().unwrap().0).collect();
            assert_eq!(Relays::new(wanted, None, ends).is_some(), wrong == 2);
        }
        // The port is free again.
        let (streams, _ends) = expected.expect(Wanted::Terminal).unwrap();
        expected.forget(&streams);
        ports.expect(streams.terminal.unwrap()).unwrap();
    }
}
