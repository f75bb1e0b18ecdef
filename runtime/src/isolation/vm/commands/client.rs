//! A command's connection to a container's sandbox process.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use nacre_agent::{container::Identity, protocol};
use nix::poll::PollFlags;

use crate::isolation::{
    vm::{
        control::Control,
        error::ClientError,
        found::VmContainer,
        wire::{self, Answer, Ask, GuestAsk},
    },
    wait::{Interest, wait},
};

/// How long a sandbox process may take to answer what takes no time. It gives up sooner on a
/// guest that says nothing.
pub(in crate::isolation::vm) const TIMEOUT: Duration = Duration::from_secs(12);

impl VmContainer<'_> {
    /// Connects to the container's sandbox process, for requests that are pointless unless it
    /// answers.
    pub(super) fn connect(&self) -> Result<Client, ClientError> {
        let sandbox = self.vm.sandbox;
        if sandbox.is_stopped() {
            return Err(ClientError::Stopped);
        }
        let client = Client::connect(&self.folder)?;
        Ok(Client {
            sandbox: Some(sandbox),
            ..client
        })
    }
}

/// How often a process that doesn't answer is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A connection to a sandbox process.
pub(in crate::isolation::vm) struct Client {
    control: Control,
    /// The process, if waiting for its answer is pointless while it is stopped.
    sandbox: Option<Identity>,
}

impl Client {
    /// Connects to the sandbox process that listens in `folder`.
    pub(in crate::isolation::vm) fn connect(folder: &Path) -> Result<Self, ClientError> {
        let stream = wire::connect(folder, TIMEOUT).map_err(ClientError::Io)?;
        let stream = stream.ok_or(ClientError::Gone)?;
        Ok(Self {
            control: Control::new(stream).map_err(ClientError::Io)?,
            sandbox: None,
        })
    }

    /// As [`Client::ask`], for answers that come with descriptors.
    pub(in crate::isolation::vm) fn ask_for_descriptors(
        &mut self,
        ask: &Ask,
        timeout: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), ClientError> {
        self.control.expect_descriptors();
        let answer = self.ask(ask, timeout)?;
        Ok((answer, self.control.take_descriptors()))
    }

    /// Sends a request without waiting.
    pub(in crate::isolation::vm) fn send(&mut self, ask: &Ask) -> Result<(), ClientError> {
        self.control.send(ask)?;
        Ok(self.control.flush()?)
    }

    /// Whether some of what was asked hasn't been taken yet.
    pub(in crate::isolation::vm) fn is_congested(&self) -> bool {
        self.control.has_outgoing()
    }

    /// Returns the next answer, or what the sandbox process has said unasked, if it has come. What
    /// came before the sandbox process hung up can still be read.
    pub(in crate::isolation::vm) fn answer(&mut self) -> Result<Option<Answer>, ClientError> {
        let answer = self.control.receive()?;
        if answer.is_none() {
            self.control.flush()?;
        }
        Ok(answer)
    }

    /// Asks for something, and waits for the answer.
    pub(in crate::isolation::vm) fn ask(
        &mut self,
        ask: &Ask,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.control.send(ask)?;
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
            // A signal may reach it later than the request does.
            if self.sandbox.is_some_and(|sandbox| sandbox.is_stopped()) {
                return Err(ClientError::Stopped);
            }
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, self.control.has_outgoing());
            let answer = Interest::new((), self.control.as_fd(), flags);
            wait(vec![answer], Some(left.min(LOOK)))
                .map_err(|error| ClientError::Io(error.into()))?;
        }
    }

    /// Asks the agent for something.
    pub(in crate::isolation::vm) fn ask_guest(
        &mut self,
        ask: GuestAsk,
        timeout: Duration,
    ) -> Result<protocol::Answer, ClientError> {
        match self.ask(&Ask::Guest(ask), timeout)? {
            Answer::Guest(answer) => Ok(answer),
            _ => Err(ClientError::Unasked),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

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

    #[test]
    fn a_process_that_is_stopped_after_it_was_asked_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let _listener = wire::listen(folder.path()).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let mut client = Client {
            sandbox: Some(Identity::of(pid).unwrap()),
            ..Client::connect(folder.path()).unwrap()
        };
        let stop = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            kill(pid, Signal::SIGSTOP).unwrap();
        });
        let answer = client.ask(&Ask::Pause, Duration::from_secs(60));
        stop.join().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(answer, Err(ClientError::Stopped)), "{answer:?}");
    }
}
