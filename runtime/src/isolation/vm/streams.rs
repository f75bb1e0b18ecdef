//! A guest process's standard streams on the host: a thread for each carries bytes between what
//! nacre has and a vsock stream, whatever they are. A slow reader slows the writer, an end of
//! file reaches the other side, and so does a reader that has gone.

use std::{
    fs::{File, OpenOptions},
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{fs::FileTypeExt, fs::MetadataExt, net::UnixStream},
    },
    sync::{Arc, OnceLock},
    thread,
};

use nacre_agent::protocol::{self, Streams};
use nacre_vmm::devices::virtio::vsock::Ports;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::{Deserialize, Serialize};

use super::terminal::Terminal;

const STDIN: RawFd = 0;
const STDOUT: RawFd = 1;
const STDERR: RawFd = 2;

/// What a thread holds at a time, in bytes: what a pipe does.
const BUFFER: usize = 64 << 10;

/// Which streams a process is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Wanted {
    /// The standard ones, but for those that are `/dev/null`.
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
    /// The same file as standard output, and so the same stream: what is written to both keeps
    /// its order.
    Stdout,
    Own,
}

impl Wanted {
    /// Those of a process with that terminal, or else of this process's standard streams.
    pub(super) fn new(terminal: Option<&Terminal>) -> io::Result<Self> {
        if terminal.is_some() {
            return Ok(Self::Terminal);
        }
        let stdout = !is_null(STDOUT)?;
        let stderr = if stdout && are_same(STDOUT, STDERR)? {
            Stderr::Stdout
        } else if is_null(STDERR)? {
            Stderr::Null
        } else {
            Stderr::Own
        };
        Ok(Self::Standard {
            stdin: !is_null(STDIN)?,
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

    /// Expects the guest to connect the streams of a process. Returns what it is to connect to,
    /// and the host's ends.
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

    /// Expects those no more that the guest hasn't connected to.
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

/// The host's ends of a process's streams, before their threads are there.
pub(super) enum Relays {
    Standard {
        input: Option<UnixStream>,
        /// What is written to each of standard output and error.
        outputs: Vec<(RawFd, UnixStream)>,
    },
    /// The caller's own terminal is the process's: what is read from standard input is typed,
    /// and what is shown goes to standard output.
    Foreground(UnixStream),
    /// Somebody else has the master of this terminal.
    Pair {
        slave: Arc<OwnedFd>,
        stream: UnixStream,
    },
}

impl Relays {
    /// For streams whose ends these are ([`Expected::expect`]); `None` if they are not as many
    /// as it takes.
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
                let input = match stdin {
                    true => Some(ends.next()?),
                    false => None,
                };
                let mut outputs = Vec::new();
                for (fd, has) in [(STDOUT, stdout), (STDERR, stderr == Stderr::Own)] {
                    if has {
                        outputs.push((fd, ends.next()?));
                    }
                }
                Self::Standard { input, outputs }
            }
        };
        ends.next().is_none().then_some(relays)
    }

    /// Starts the threads. What is returned reads an end of file once all output has been
    /// written, or nobody is left to read it.
    pub(super) fn start(self) -> io::Result<UnixStream> {
        let (done, working) = UnixStream::pair()?;
        match self {
            Self::Standard { input, outputs } => {
                if let Some(stream) = input {
                    spawn("stdin", move || carry_input(&stream))?;
                }
                for (fd, stream) in outputs {
                    let working = working.try_clone()?;
                    let name = if fd == STDOUT { "stdout" } else { "stderr" };
                    spawn(name, move || {
                        carry_output(&stream, fd);
                        drop(working);
                    })?;
                }
            }
            Self::Foreground(stream) => {
                let typed = stream.try_clone()?;
                // Its end isn't the terminal's: that shows what there is to be shown.
                spawn("typed", move || {
                    let _ = copy(borrow(STDIN), typed.as_fd());
                    let _ = replace_with_null(STDIN);
                })?;
                spawn("shown", move || {
                    carry_output(&stream, STDOUT);
                    drop(working);
                })?;
            }
            Self::Pair { slave, stream } => {
                let (to_guest, from_slave) = (stream.try_clone()?, Arc::clone(&slave));
                spawn("typed", move || {
                    let _ = copy(from_slave.as_fd(), to_guest.as_fd());
                    hang_up(&to_guest);
                })?;
                spawn("shown", move || {
                    if copy(stream.as_fd(), slave.as_fd()).is_err() {
                        hang_up(&stream);
                    }
                    drop(working);
                })?;
            }
        }
        Ok(done)
    }
}

/// The master of a terminal is gone: so is the guest's.
fn hang_up(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work)?;
    Ok(())
}

/// Makes the process let go of its standard input and output, so that whoever holds their
/// other ends sees that it has.
pub(super) fn release_input_and_output() -> io::Result<()> {
    replace_with_null(STDIN)?;
    replace_with_null(STDOUT)
}

/// As [`release_input_and_output`], with standard error.
pub(super) fn release_all() -> io::Result<()> {
    release_input_and_output()?;
    replace_with_null(STDERR)
}

fn carry_input(stream: &UnixStream) {
    let stdin = borrow(STDIN);
    let _ = copy(stdin, stream.as_fd());
    // Either way the guest has all there is: an end of file.
    let _ = stream.shutdown(Shutdown::Write);
    // The writer learns that nobody reads any more.
    let _ = replace_with_null(STDIN);
}

fn carry_output(stream: &UnixStream, fd: RawFd) {
    let _ = copy(stream.as_fd(), borrow(fd));
    // Nobody reads any more: the workload's next write fails.
    let _ = stream.shutdown(Shutdown::Both);
    // The workload may have closed its output and gone on; its reader sees the end of file.
    // Standard error stays, for nacre's own messages.
    if fd == STDOUT {
        let _ = replace_with_null(fd);
    }
}

/// Copies to the end of file.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> nix::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match retry(from, PollFlags::POLLIN, |fd| {
            nix::unistd::read(fd, &mut buffer)
        })? {
            0 => return Ok(()),
            read => read,
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let written = retry(to, PollFlags::POLLOUT, |fd| nix::unistd::write(fd, rest))?;
            rest = &rest[written..];
        }
    }
}

/// Does what may be interrupted, or would block because somebody else made this file
/// description non-blocking.
fn retry(
    fd: BorrowedFd<'_>,
    ready: PollFlags,
    mut call: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>,
) -> nix::Result<usize> {
    loop {
        match call(fd) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(fd, ready)], PollTimeout::NONE);
            }
            other => return other,
        }
    }
}

pub(super) fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the standard streams are always open: Rust's start opens those that aren't, and
    // they are only ever replaced.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn metadata(fd: RawFd) -> io::Result<std::fs::Metadata> {
    File::from(borrow(fd).try_clone_to_owned()?).metadata()
}

fn is_null(fd: RawFd) -> io::Result<bool> {
    let metadata = metadata(fd)?;
    Ok(metadata.file_type().is_char_device() && metadata.rdev() == libc::makedev(1, 3))
}

fn are_same(a: RawFd, b: RawFd) -> io::Result<bool> {
    let (a, b) = (metadata(a)?, metadata(b)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// `/dev/null`, opened before this process leaves the host's file systems.
static NULL: OnceLock<File> = OnceLock::new();

/// Has what takes the place of streams at hand, wherever this process goes.
pub(super) fn prepare_to_release() -> io::Result<()> {
    null().map(drop)
}

fn null() -> io::Result<&'static File> {
    if let Some(null) = NULL.get() {
        return Ok(null);
    }
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    Ok(NULL.get_or_init(|| null))
}

fn replace_with_null(fd: RawFd) -> io::Result<()> {
    let null = null()?;
    // SAFETY: dup2 takes no pointers, and both descriptors are open.
    if unsafe { libc::dup2(null.as_raw_fd(), fd) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn everything_is_copied_and_a_slow_reader_waited_for() {
        let (from, mut writer) = UnixStream::pair().unwrap();
        let (mut reader, to) = UnixStream::pair().unwrap();
        // Somebody else's doing: both ends non-blocking.
        from.set_nonblocking(true).unwrap();
        to.set_nonblocking(true).unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 / 3) as u8).collect();
        let sent = bytes.clone();
        let write = thread::spawn(move || writer.write_all(&sent).unwrap());
        let relay = thread::spawn(move || copy(from.as_fd(), to.as_fd()));
        let mut received = Vec::new();
        thread::sleep(std::time::Duration::from_millis(50));
        reader.read_to_end(&mut received).unwrap();
        assert!(received == bytes);
        write.join().unwrap();
        relay.join().unwrap().unwrap();
    }

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
        // It is free again, and its end is told.
        let (streams, mut ends) = expected.expect(Wanted::Terminal).unwrap();
        expected.forget(&streams);
        assert_eq!(ends[0].read(&mut [0]).unwrap(), 0);
        ports.expect(streams.terminal.unwrap()).unwrap();
    }

    #[test]
    fn a_reader_that_has_gone_ends_the_copy() {
        let (from, mut writer) = UnixStream::pair().unwrap();
        let (reader, to) = UnixStream::pair().unwrap();
        drop(reader);
        writer.write_all(b"x").unwrap();
        let error = copy(from.as_fd(), to.as_fd()).unwrap_err();
        assert_eq!(error, Errno::EPIPE);
    }
}
