//! Waits for one of several descriptors. Each is known by a token, not by its position.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};

/// Waits for one of these, without a limit.
pub(crate) struct Wait<'f, T> {
    polled: Vec<libc::pollfd>,
    tokens: Vec<T>,
    /// The descriptors stay open.
    files: PhantomData<&'f ()>,
}

/// What there is to do after a wait.
pub(crate) struct Ready<T> {
    polled: Vec<libc::pollfd>,
    tokens: Vec<T>,
}

impl<'f, T: Copy + PartialEq> Wait<'f, T> {
    /// Begins with nothing to wait for, with room for `count` descriptors.
    pub(crate) fn with_capacity(count: usize) -> Wait<'f, T> {
        Wait {
            polled: Vec::with_capacity(count),
            tokens: Vec::with_capacity(count),
            files: PhantomData,
        }
    }

    /// Adds a descriptor that is waited for until it is readable.
    pub(crate) fn readable(&mut self, token: T, file: &'f impl AsRawFd) -> &mut Wait<'f, T> {
        self.add(token, file, libc::POLLIN)
    }

    /// Adds a descriptor that is waited for until one of `events` (`POLL…`) happens. Errors and
    /// hang-ups are always waited for.
    pub(crate) fn add(
        &mut self,
        token: T,
        file: &'f impl AsRawFd,
        events: i16,
    ) -> &mut Wait<'f, T> {
        self.polled.push(poll_for(file.as_raw_fd(), events));
        self.tokens.push(token);
        self
    }

    /// Waits until something happens on one of them.
    pub(crate) fn wait(mut self) -> io::Result<Ready<T>> {
        loop {
            let count = self.polled.len() as libc::nfds_t;
            // SAFETY: the pointer and the length are those of the vector.
            if unsafe { libc::poll(self.polled.as_mut_ptr(), count, -1) } >= 0 {
                return Ok(Ready {
                    polled: self.polled,
                    tokens: self.tokens,
                });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl<T: Copy + PartialEq> Ready<T> {
    /// Returns whether something happened on the descriptor with this token.
    pub(crate) fn has(&self, token: T) -> bool {
        self.events(token) != 0
    }

    /// Returns what happened on it (`POLL…`): nothing if it wasn't waited for.
    pub(crate) fn events(&self, token: T) -> i16 {
        let pairs = self.tokens.iter().zip(&self.polled);
        pairs
            .filter(|(known, _)| **known == token)
            .fold(0, |events, (_, file)| events | file.revents)
    }
}

/// Makes an entry for poll(2).
pub(crate) fn poll_for(file: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd: file,
        events,
        revents: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_happened_is_known_by_its_token() {
        let (first, _keeps_it_open) = io::pipe().unwrap();
        let (second, mut writer) = io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let mut wait = Wait::with_capacity(3);
        wait.readable('a', &first).readable('b', &second);
        wait.add('c', &writer, libc::POLLOUT);
        let ready = wait.wait().unwrap();
        assert!(!ready.has('a') && ready.has('b') && !ready.has('d'));
        assert_eq!(ready.events('c'), libc::POLLOUT);
    }
}
