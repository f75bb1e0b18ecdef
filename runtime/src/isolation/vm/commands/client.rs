//! A command's connection to a container's sandbox process.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use nacre_agent::protocol;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
};

use crate::isolation::vm::{
    control::{Control, ControlError, poll_timeout},
    wire::{self, Answer, Ask},
};

/// How long a sandbox process may take to answer what takes no time.
pub(in crate::isolation::vm) const TIMEOUT: Duration = Duration::from_secs(20);

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens, or whoever did is gone: the container ends, or has ended.
    #[error("the container's sandbox process is about to end, or has ended")]
    Gone,
    #[error("the container's sandbox process, or its guest, didn't answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("can't speak with the container's sandbox process")]
    Io(#[source] std::io::Error),
    #[error("the container's sandbox process answered what wasn't asked")]
    Unasked,
    /// In words made for whoever runs nacre.
    #[error("{}", .0.message)]
    Refused(protocol::Failure),
}

/// A connection to a sandbox process.
pub(in crate::isolation::vm) struct Client(Control);

impl Client {
    /// Connects to the one that listens in `folder`.
    pub(in crate::isolation::vm) fn connect(folder: &Path) -> Result<Self, ClientError> {
        let stream = wire::connect(folder, TIMEOUT).map_err(ClientError::Io)?;
        let stream = stream.ok_or(ClientError::Gone)?;
        Ok(Self(Control::new(stream).map_err(ClientError::Io)?))
    }

    /// As [`Client::ask`], for what is answered with descriptors.
    pub(in crate::isolation::vm) fn ask_for_descriptors(
        &mut self,
        ask: &Ask,
        timeout: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), ClientError> {
        self.0.expect_descriptors();
        let answer = self.ask(ask, timeout)?;
        Ok((answer, self.0.take_descriptors()))
    }

    /// Asks for something without waiting.
    pub(in crate::isolation::vm) fn send(&mut self, ask: &Ask) -> Result<(), ClientError> {
        self.0.send(ask)?;
        Ok(self.0.flush()?)
    }

    /// Whether what was asked hasn't all been taken.
    pub(in crate::isolation::vm) fn is_congested(&self) -> bool {
        self.0.has_outgoing()
    }

    /// The next answer, or what the sandbox process has said of its own accord, if it has come.
    /// What came before the sandbox process hung up is there still.
    pub(in crate::isolation::vm) fn answer(&mut self) -> Result<Option<Answer>, ClientError> {
        let answer = self.0.receive()?;
        if answer.is_none() {
            self.0.flush()?;
        }
        Ok(answer)
    }

    /// Asks for something, and waits for the answer.
    pub(in crate::isolation::vm) fn ask(
        &mut self,
        ask: &Ask,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.0.send(ask)?;
        let deadline = Instant::now() + timeout;
        loop {
            match self.answer()? {
                Some(Answer::Failed(failure)) => return Err(ClientError::Refused(failure)),
                Some(answer) => return Ok(answer),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Silent(timeout));
            }
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, self.0.has_outgoing());
            match poll(
                &mut [PollFd::new(self.0.as_fd(), flags)],
                poll_timeout(left),
            ) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(ClientError::Io(error.into())),
            }
        }
    }

    /// Asks the agent for something.
    pub(in crate::isolation::vm) fn ask_guest(
        &mut self,
        request: protocol::Request,
        timeout: Duration,
    ) -> Result<protocol::Answer, ClientError> {
        match self.ask(&Ask::Guest(Box::new(request)), timeout)? {
            Answer::Guest(answer) => Ok(answer),
            _ => Err(ClientError::Unasked),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<ControlError> for ClientError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Closed => Self::Gone,
            ControlError::Io(source) => Self::Io(source),
            ControlError::TooLong(_) | ControlError::Garbage(_) => Self::Unasked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_the_end_is_heard_though_nothing_can_be_sent_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let listener = wire::listen(folder.path()).unwrap();
        let mut client = Client::connect(folder.path()).unwrap();
        let (mut sandbox, _) = listener.accept().unwrap();
        protocol::send(&mut sandbox, &Answer::Exited { status: 3 }).unwrap();
        drop(sandbox);
        assert!(matches!(client.send(&Ask::Pause), Err(ClientError::Gone)));
        let answer = client.answer().unwrap();
        assert!(matches!(answer, Some(Answer::Exited { status: 3 })));
        assert!(matches!(client.answer(), Err(ClientError::Gone)));
    }
}
