//! Waits for several descriptors at once. What has happened to each is told by a token, and not by
//! its place in a list.

use std::{os::fd::BorrowedFd, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// A descriptor to wait for, with the token by which it is told of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest<'a, T> {
    token: T,
    fd: BorrowedFd<'a>,
    flags: PollFlags,
}

impl<'a, T: Copy> Interest<'a, T> {
    /// Is interested in what there is to read.
    pub(crate) fn readable(token: T, fd: BorrowedFd<'a>) -> Self {
        Self::new(token, fd, PollFlags::POLLIN)
    }

    /// Is interested in these flags. Hang-ups and errors are told of whatever they are (poll(2)).
    pub(crate) fn new(token: T, fd: BorrowedFd<'a>, flags: PollFlags) -> Self {
        Self { token, fd, flags }
    }

    /// Returns the same with another token.
    pub(crate) fn map<U: Copy>(&self, token: impl FnOnce(T) -> U) -> Interest<'a, U> {
        Interest::new(token(self.token), self.fd, self.flags)
    }
}

/// What has happened: nothing, if the time was over or a signal came first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Events<T>(Vec<(T, PollFlags)>);

impl<T: PartialEq> Events<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anything has happened to a descriptor.
    pub(crate) fn has(&self, token: T) -> bool {
        !self.flags(token).is_empty()
    }

    /// Returns what has happened to a descriptor.
    pub(crate) fn flags(&self, token: T) -> PollFlags {
        let found = self.0.iter().find(|(found, _)| *found == token);
        found.map_or(PollFlags::empty(), |(_, flags)| *flags)
    }

    /// Returns the events whose tokens become others, in the order of the interests.
    pub(crate) fn filter_map<U>(&self, token: impl Fn(&T) -> Option<U>) -> Events<U> {
        let events = self.0.iter();
        let events = events.filter_map(|(found, flags)| Some((token(found)?, *flags)));
        Events(events.collect())
    }
}

impl<T> IntoIterator for Events<T> {
    type Item = (T, PollFlags);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Waits until something happens, but no longer than `left`, which is rounded up to milliseconds;
/// `None` is for ever.
pub(crate) fn wait<T>(
    interests: Vec<Interest<'_, T>>,
    left: Option<Duration>,
) -> nix::Result<Events<T>> {
    let fds = interests.iter();
    let fds = fds.map(|interest| PollFd::new(interest.fd, interest.flags));
    let mut fds: Vec<PollFd<'_>> = fds.collect();
    match poll(&mut fds, left.map_or(PollTimeout::NONE, timeout)) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Events(Vec::new())),
        Err(error) => return Err(error),
    }
    let events = interests.into_iter().zip(&fds).map(|(interest, fd)| {
        // Flags that aren't known say that something is wrong.
        let flags = fd.revents().unwrap_or(PollFlags::POLLERR);
        (interest.token, flags)
    });
    Ok(Events(
        events.filter(|(_, flags)| !flags.is_empty()).collect(),
    ))
}

/// Whether the other end of a connection has gone.
pub(crate) fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let interest = Interest::new((), fd, PollFlags::empty());
    wait(vec![interest], Some(Duration::ZERO)).is_ok_and(|events| !events.is_empty())
}

fn timeout(left: Duration) -> PollTimeout {
    let milliseconds = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn what_has_happened_is_told_by_its_token() {
        let (a, mut to_a) = UnixStream::pair().unwrap();
        let (b, to_b) = UnixStream::pair().unwrap();
        let interests = |flags| {
            let a = Interest::readable('a', a.as_fd());
            vec![a, Interest::new('b', b.as_fd(), flags)]
        };
        let none = Some(Duration::ZERO);
        assert!(wait(interests(PollFlags::POLLIN), none).unwrap().is_empty());
        to_a.write_all(b"x").unwrap();
        let events = wait(interests(PollFlags::POLLOUT), None).unwrap();
        assert!(events.has('a') && events.flags('b') == PollFlags::POLLOUT);
        assert!(!is_hung_up(b.as_fd()));
        drop(to_b);
        let events = wait(interests(PollFlags::empty()), None).unwrap();
        assert!(events.flags('b').contains(PollFlags::POLLHUP));
        assert!(is_hung_up(b.as_fd()));
        let only_b = events.filter_map(|token| (*token == 'b').then_some(()));
        assert_eq!(only_b.into_iter().count(), 1);
    }

    #[test]
    fn a_wait_is_rounded_up() {
        assert_eq!(timeout(Duration::from_micros(1)), PollTimeout::from(1u8));
        assert_eq!(timeout(Duration::MAX), PollTimeout::MAX);
    }
}
