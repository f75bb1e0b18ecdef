//! The guest's serial console: the end of its output is always kept, for error messages; all of it
//! goes to a file if there is one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard};

/// How much of the output is kept.
const KEPT_BYTES: usize = 8 << 10;
/// How many of the last lines [`Console::tail`] returns.
const TAIL_LINES: usize = 64;
/// How much may wait for the end of its line before it goes to the file. A pipe that polls as
/// writable accepts this much without blocking (`PIPE_BUF`, pipe(7)).
const LOG_CHUNK: usize = 4096;

/// The end of the console's output.
pub(crate) struct Console {
    kept: Mutex<VecDeque<u8>>,
}

impl Console {
    /// Makes a console, and the writer for its output; `log` gets a copy of the output.
    pub(crate) fn new(log: Option<File>) -> (Arc<Console>, ConsoleWriter) {
        let console = Arc::new(Console {
            kept: Mutex::new(VecDeque::new()),
        });
        let writer = ConsoleWriter {
            console: Arc::clone(&console),
            log: log.map(Log::new),
        };
        (console, writer)
    }

    /// Returns the last lines, without control characters: the guest wrote them, and they may end
    /// up on a terminal.
    pub(crate) fn tail(&self) -> String {
        let kept = self.kept();
        let text: String = sanitise(kept.iter().copied());
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(TAIL_LINES);
        lines[first..]
            .iter()
            .flat_map(|line| [line, "\n"])
            .collect()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Keeps printable ASCII and line ends, drops escape sequences and other control characters, and
/// turns everything else into question marks.
fn sanitise(bytes: impl Iterator<Item = u8>) -> String {
    let mut text = String::new();
    let mut bytes = bytes.peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\n' | b'\t' | b' '..=b'~' => text.push(byte.into()),
            // A control sequence: parameters, then one final byte (ECMA-48, 5.4).
            0x1b if bytes.next_if_eq(&b'[').is_some() => {
                while bytes.next_if(|b| (0x20..0x40).contains(b)).is_some() {}
                bytes.next_if(|b| (0x40..0x7f).contains(b));
            }
            0x80.. => text.push('?'),
            _ => {}
        }
    }
    text
}

/// Takes the serial port's output.
pub(crate) struct ConsoleWriter {
    console: Arc<Console>,
    log: Option<Log>,
}

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.console.kept();
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(KEPT_BYTES);
        kept.drain(..excess);
        drop(kept);
        if let Some(log) = &mut self.log {
            log.write(bytes);
        }
        Ok(bytes.len())
    }

    /// Called after each byte: the log is written line by line.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ConsoleWriter {
    fn drop(&mut self) {
        if let Some(log) = &mut self.log {
            log.write_out();
        }
    }
}

/// The file that gets a copy, line by line. It never delays the guest: what a full pipe doesn't
/// accept at once is dropped.
struct Log {
    file: File,
    line: Vec<u8>,
}

impl Log {
    fn new(file: File) -> Log {
        Log {
            file,
            line: Vec::new(),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.line.push(byte);
            if byte == b'\n' || self.line.len() == LOG_CHUNK {
                self.write_out();
            }
        }
    }

    fn write_out(&mut self) {
        if !self.line.is_empty() && self.writable() {
            // A log that can't be written (a full disk) is no reason to stop the machine.
            let _ = self.file.write_all(&self.line);
        }
        self.line.clear();
    }

    fn writable(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.file.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one `pollfd` is passed, as the count says.
        let ready = unsafe { libc::poll(&mut poll, 1, 0) };
        ready == 1 && poll.revents & libc::POLLOUT != 0
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn the_tail_is_the_last_lines() {
        let (console, mut writer) = Console::new(None);
        for line in 0..100 {
            writeln!(writer, "line {line}\r").unwrap();
        }
        writer.write_all(b"unfinished").unwrap();
        let tail = console.tail();
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("line 37\nline 38\n"));
        assert!(tail.ends_with("line 99\nunfinished\n"));
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let (console, mut writer) = Console::new(None);
        for _ in 0..100 {
            writer.write_all(&[b'x'; 1000]).unwrap();
        }
        assert_eq!(console.kept().len(), KEPT_BYTES);
        assert_eq!(console.tail().len(), KEPT_BYTES + 1);
    }

    #[test]
    fn terminal_control_does_not_get_through() {
        let (console, mut writer) = Console::new(None);
        writer
            .write_all(b"\x1b[1;31mred\x1b[0m \x07\x1b]0;title\x08\xff\xc2\x9b\n\x1b[")
            .unwrap();
        assert_eq!(console.tail(), "red ]0;title???\n");
    }

    #[test]
    fn the_log_gets_everything() {
        let mut log = tempfile::tempfile().unwrap();
        let (_, mut writer) = Console::new(Some(log.try_clone().unwrap()));
        writer.write_all(b"one\ntwo").unwrap();
        drop(writer);
        let mut text = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo");
    }

    #[test]
    fn a_log_that_nobody_reads_does_not_block() {
        let (reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let (_, mut writer) = Console::new(Some(file));
        for _ in 0..1000 {
            writer.write_all(&[b'y'; 500]).unwrap();
            writer.write_all(b"\n").unwrap();
        }
        drop(reader);
    }
}
