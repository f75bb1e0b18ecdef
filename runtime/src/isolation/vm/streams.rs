//! The workload's standard streams: a thread for each carries bytes between what nacre
//! inherited and a vsock stream, whatever they are. A slow reader slows the writer, an end of
//! file reaches the other side, and so does a reader that has gone.

use std::{
    fs::{File, OpenOptions},
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::{fs::FileTypeExt, fs::MetadataExt, net::UnixStream},
    },
    thread,
};

use nacre_agent::protocol::{self, Streams};
use nacre_vmm::devices::virtio::vsock::Ports;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

const STDIN: RawFd = 0;
const STDOUT: RawFd = 1;
const STDERR: RawFd = 2;

/// What a thread holds at a time, in bytes: what a pipe does.
const BUFFER: usize = 64 << 10;

/// The host's ends of the streams, before and after their threads are there.
pub(super) struct Relays {
    input: Option<UnixStream>,
    /// What is written to each of standard output and error.
    outputs: Vec<(RawFd, UnixStream)>,
}

impl Relays {
    /// Has a port for each stream that isn't `/dev/null`. Standard output and error share one
    /// if they are the same file, so that what is written to both keeps its order.
    pub(super) fn new(ports: &Ports) -> io::Result<(Self, Streams)> {
        let mut next = protocol::CONTROL_PORT;
        let mut expect = || {
            next += 1;
            ports.expect(next).map(|stream| (next, stream))
        };
        let mut streams = Streams::default();
        let mut relays = Self {
            input: None,
            outputs: Vec::new(),
        };
        if !is_null(STDIN)? {
            let (port, stream) = expect()?;
            streams.stdin = Some(port);
            relays.input = Some(stream);
        }
        if !is_null(STDOUT)? {
            let (port, stream) = expect()?;
            streams.stdout = Some(port);
            relays.outputs.push((STDOUT, stream));
        }
        if streams.stdout.is_some() && are_same(STDOUT, STDERR)? {
            streams.stderr = streams.stdout;
        } else if !is_null(STDERR)? {
            let (port, stream) = expect()?;
            streams.stderr = Some(port);
            relays.outputs.push((STDERR, stream));
        }
        Ok((relays, streams))
    }

    /// Starts the threads. What is returned reads an end of file once all output has been
    /// written, or nobody is left to read it.
    pub(super) fn start(self) -> io::Result<UnixStream> {
        let (done, working) = UnixStream::pair()?;
        if let Some(stream) = self.input {
            thread::Builder::new()
                .name("stdin".into())
                .spawn(move || carry_input(&stream))?;
        }
        for (fd, stream) in self.outputs {
            let working = working.try_clone()?;
            let name = if fd == STDOUT { "stdout" } else { "stderr" };
            thread::Builder::new().name(name.into()).spawn(move || {
                carry_output(&stream, fd);
                drop(working);
            })?;
        }
        Ok(done)
    }
}

/// Makes the process let go of its standard input and output, so that whoever holds their
/// other ends sees that it has.
pub(super) fn release_input_and_output() -> io::Result<()> {
    replace_with_null(STDIN)?;
    replace_with_null(STDOUT)
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

fn replace_with_null(fd: RawFd) -> io::Result<()> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
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
    fn a_reader_that_has_gone_ends_the_copy() {
        let (from, mut writer) = UnixStream::pair().unwrap();
        let (reader, to) = UnixStream::pair().unwrap();
        drop(reader);
        writer.write_all(b"x").unwrap();
        let error = copy(from.as_fd(), to.as_fd()).unwrap_err();
        assert_eq!(error, Errno::EPIPE);
    }
}
