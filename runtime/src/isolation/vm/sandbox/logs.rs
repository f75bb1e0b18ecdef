//! Carries on what the monitor has to say: its messages to the log, and its guest's console to
//! `console-log`. A monitor that a guest has taken over is held to the limits here: of either it has
//! nothing but the end of a pipe, whose other end a thread of this process reads.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use nacre_vmm::Allowance;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};

use crate::{
    isolation::{
        vm::filter,
        wait::{Interest, wait},
    },
    log::{self, LONGEST_PASSED_ON, PassedOn},
};

/// How much of a console goes to its file, in bytes: at once, the time after which there is one
/// more, and in all. A guest prints some 30 KiB when it starts.
const CONSOLE_AT_ONCE: u64 = 1 << 20;
const CONSOLE_EACH: Duration = Duration::from_micros(100);
const CONSOLE_IN_ALL: u64 = 64 << 20;

/// What the file gets, once, when output begins to be left out.
const LEFT_OUT: &[u8] = b"nacre: the guest prints too much; from here on lines are missing\n";

/// How much a console's pipe holds until the thread gets a processor, if the host allows it.
const PIPE_SIZE: libc::c_int = 1 << 20;

/// The longest line: what is longer becomes several. A pipe that polls as writable accepts this much
/// without blocking (`PIPE_BUF`, pipe(7)).
const LONGEST_LINE: usize = LONGEST_PASSED_ON;

/// How much is read at once.
const BUFFER: usize = 16 << 10;

/// How long the rest may take once the monitor has ended.
const LIMIT: Duration = Duration::from_secs(2);

/// This process's ends of the pipes, before the thread reads them.
pub(super) struct Logs {
    messages: Reader,
    console: Option<(Reader, File)>,
}

/// The monitor's ends. A line for which there is no room is lost; nobody waits for any.
pub(super) struct MonitorEnds {
    pub(super) messages: OwnedFd,
    pub(super) console: Option<File>,
}

/// The thread that reads. Dropping this waits, for a while, until it has read what there is: the
/// monitor must have ended.
pub(super) struct Carried {
    /// Hung up when it has ended.
    ended: Receiver<()>,
}

/// What is read, line by line.
struct Reader {
    pipe: File,
    line: Vec<u8>,
}

/// Where a line goes.
trait Sink: Send {
    fn take(&mut self, line: &[u8]);
}

impl Logs {
    /// Makes the pipes for a monitor, whose guest's console goes to that file.
    pub(super) fn make(console: Option<File>) -> io::Result<(Self, MonitorEnds)> {
        let (messages, their_messages) = pipe()?;
        let (console, their_console) = match console {
            Some(file) => {
                let (reader, writer) = pipe()?;
                // A smaller one will do as well.
                let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
                (Some((reader, file)), Some(writer.into()))
            }
            None => (None, None),
        };
        let ends = MonitorEnds {
            messages: their_messages,
            console: their_console,
        };
        Ok((Self { messages, console }, ends))
    }

    /// Returns this process's ends.
    pub(super) fn ends(&self) -> impl Iterator<Item = RawFd> {
        let console = self.console.iter().map(|(reader, _)| reader);
        let readers = [&self.messages].into_iter().chain(console);
        readers.map(|reader| reader.pipe.as_raw_fd())
    }

    /// Starts the thread. It has no rights: all that it reads and writes is open.
    pub(super) fn start(self) -> io::Result<Carried> {
        let (ends, ended) = mpsc::channel::<()>();
        let mut streams: Vec<(Reader, Box<dyn Sink>)> =
            vec![(self.messages, Box::new(PassedOn::new()))];
        if let Some((reader, file)) = self.console {
            streams.push((reader, Box::new(ConsoleLog::new(file))));
        }
        let body = move || {
            match filter::confine_carrier() {
                Ok(()) => carry(streams),
                Err(error) => tracing::warn!("can't carry the logs without rights: {error}"),
            }
            drop(ends);
        };
        thread::Builder::new().name("logs".into()).spawn(body)?;
        Ok(Carried { ended })
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if self.ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last of the VM's messages are missing: nobody takes them");
        }
    }
}

/// Makes a pipe, neither end of which anybody ever waits at.
fn pipe() -> nix::Result<(Reader, OwnedFd)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let reader = Reader {
        pipe: ours.into(),
        line: Vec::new(),
    };
    Ok((reader, theirs))
}

/// Reads until all of the streams have ended.
fn carry(mut streams: Vec<(Reader, Box<dyn Sink>)>) {
    let mut buffer = vec![0; BUFFER];
    while !streams.is_empty() {
        let interests = streams.iter().enumerate();
        let interests = interests
            .map(|(index, (reader, _))| Interest::readable(index, reader.pipe.as_fd()))
            .collect();
        let Ok(events) = wait(interests, None) else {
            return;
        };
        let mut index = 0..;
        streams.retain_mut(|(reader, sink)| {
            let is_ready = index.next().is_some_and(|index| events.has(index));
            !is_ready || reader.advance(&mut buffer, &mut **sink)
        });
    }
}

impl Reader {
    /// Reads once; returns whether there may be more.
    fn advance(&mut self, buffer: &mut [u8], sink: &mut dyn Sink) -> bool {
        match self.pipe.read(buffer) {
            Ok(length @ 1..) => {
                for &byte in buffer.iter().take(length) {
                    self.line.push(byte);
                    if byte == b'\n' || self.line.len() == LONGEST_LINE {
                        sink.take(&self.line);
                        self.line.clear();
                    }
                }
                true
            }
            Err(error) if is_temporary(&error) => true,
            Ok(_) | Err(_) => {
                if !self.line.is_empty() {
                    sink.take(&self.line);
                }
                false
            }
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl Sink for PassedOn {
    fn take(&mut self, line: &[u8]) {
        self.write(line);
    }
}

/// The file that gets the console's output, as far as it is allowed. What a full pipe doesn't accept
/// at once is dropped.
struct ConsoleLog {
    file: File,
    allowance: Allowance,
    is_whole: bool,
}

impl ConsoleLog {
    fn new(file: File) -> Self {
        let allowance = Allowance::new(CONSOLE_AT_ONCE, CONSOLE_EACH).in_all(CONSOLE_IN_ALL);
        Self {
            file,
            allowance,
            is_whole: true,
        }
    }
}

impl Sink for ConsoleLog {
    fn take(&mut self, line: &[u8]) {
        if !log::takes_more(self.file.as_fd()) {
            return;
        }
        let is_allowed = self.allowance.take(line.len() as u64);
        let text = if is_allowed {
            line
        } else if self.is_whole {
            LEFT_OUT
        } else {
            &[]
        };
        self.is_whole &= is_allowed;
        // A log that can't be written (a full disk) is no reason to stop the machine.
        let _ = self.file.write_all(text);
    }
}

/// What a monitor writes to a pipe, for fuzzing: it comes line by line, none of it is lost, and as a message
/// none is more than a warning.
#[cfg(fuzzing)]
pub(in crate::isolation::vm) fn read(said: &[u8]) {
    struct Checked<'a>(&'a [u8]);

    impl Sink for Checked<'_> {
        fn take(&mut self, line: &[u8]) {
            let (taken, rest) = self.0.split_at(line.len());
            assert_eq!(taken, line);
            self.0 = rest;
            assert!((1..=LONGEST_LINE).contains(&line.len()));
            assert!(!line[..line.len() - 1].contains(&b'\n'));
            let (level, message) = PassedOn::read(line);
            assert!(level >= tracing::Level::WARN && !message.contains('\n'));
        }
    }

    let (mut reader, theirs) = pipe().expect("there are pipes");
    let (mut theirs, mut buffer) = (File::from(theirs), vec![0; BUFFER]);
    let mut sink = Checked(said);
    for part in said.chunks(BUFFER / 3) {
        theirs.write_all(part).expect("it has room");
        assert!(reader.advance(&mut buffer, &mut sink));
    }
    drop(theirs);
    while reader.advance(&mut buffer, &mut sink) {}
    assert_eq!(sink.0, b"");
}

#[cfg(test)]
mod tests {
    use std::{io::Seek, sync::Arc, sync::Mutex};

    use super::*;

    /// Keeps lines.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Sink for Kept {
        fn take(&mut self, line: &[u8]) {
            self.0.lock().unwrap().push(line.to_vec());
        }
    }

    #[test]
    fn all_that_was_written_is_read_in_lines_with_a_bound() {
        let (ours, theirs) = pipe().unwrap();
        let (others, _gone) = pipe().unwrap();
        let kept = Kept::default();
        let reading = kept.clone();
        let thread = thread::spawn(move || {
            carry(vec![
                (others, Box::new(Kept::default())),
                (ours, Box::new(reading)),
            ]);
        });
        drop(_gone);
        let mut writer = File::from(theirs);
        writer.write_all(b"one\ntw").unwrap();
        writer.write_all(b"o\n\n").unwrap();
        writer.write_all(&[b'x'; LONGEST_LINE + 3]).unwrap();
        drop(writer);
        thread.join().unwrap();
        let lines = kept.0.lock().unwrap();
        let expected = [
            &b"one\n"[..],
            b"two\n",
            b"\n",
            &[b'x'; LONGEST_LINE],
            b"xxx",
        ];
        assert_eq!(*lines, expected);
    }

    #[test]
    fn a_monitor_that_nobody_reads_is_not_held_up() {
        let (_logs, ends) = Logs::make(Some(tempfile::tempfile().unwrap())).unwrap();
        for end in [File::from(ends.messages), ends.console.unwrap()] {
            let mut lost = 0;
            for _ in 0..1000 {
                lost += u32::from((&end).write_all(&[b'y'; LONGEST_LINE]).is_err());
            }
            assert!(lost > 0);
        }
    }

    #[test]
    fn a_consoles_file_has_a_bound() {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = ConsoleLog::new(file.try_clone().unwrap());
        // What a guest prints when it starts is kept.
        assert!(log.allowance.take(CONSOLE_AT_ONCE));
        // An allowance for which no time passes.
        log.allowance = Allowance::new(20, Duration::from_secs(3600));
        for _ in 0..1000 {
            log.take(b"123456789\n");
        }
        let mut text = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut text).unwrap();
        assert_eq!(text, [b"123456789\n123456789\n", LEFT_OUT].concat());
    }

    #[test]
    fn a_consoles_log_that_nobody_reads_holds_up_nothing() {
        let (_reader, writer) = io::pipe().unwrap();
        let mut log = ConsoleLog::new(File::from(OwnedFd::from(writer)));
        for _ in 0..1000 {
            log.take(&[b'y'; LONGEST_LINE]);
        }
    }
}
