//! What is said between a monitor and its parent: a message is a JSON array of a request's number and
//! the request, or its answer.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, Message};
use crate::error::Error;
use crate::exit::Exit;

/// The longest message, in bytes: the last lines of two consoles fit, however they are written.
const LONGEST: usize = 160 << 10;

/// The number of what is said without a request; those of requests are larger.
pub(super) const UNASKED: u64 = 0;

/// How many causes of an error are told.
const MAX_CAUSES: usize = 16;

/// What the parent asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// To start the machine, once it has been made.
    Start,
    Pause,
    Resume,
    /// To plug a network device in, whose tap's queues come with the message.
    Plug {
        tap: String,
        udp_offloads: bool,
        mac: [u8; 6],
        mtu: u16,
    },
    Unplug(usize),
    /// To stop the machine, unless it has ended, and to say how it ended. The monitor then exits.
    Finish,
}

/// What the monitor answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// To what has no other answer; and, unasked, that the machine has been made.
    Done,
    /// The machine runs. If it runs in QEMU, that process comes with the message.
    Started,
    Plugged(usize),
    Finished {
        outcome: Result<Ended, Told>,
        /// Whether QEMU exited by itself.
        exited: bool,
        /// The last lines of the serial console.
        console_tail: String,
    },
    Failed(Told),
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Ended {
    PowerOff,
    Reset,
    Stopped,
}

impl From<Exit> for Ended {
    fn from(exit: Exit) -> Ended {
        match exit {
            Exit::PowerOff => Ended::PowerOff,
            Exit::Reset => Ended::Reset,
            Exit::Stopped => Ended::Stopped,
        }
    }
}

impl From<Ended> for Exit {
    fn from(ended: Ended) -> Exit {
        match ended {
            Ended::PowerOff => Exit::PowerOff,
            Ended::Reset => Exit::Reset,
            Ended::Stopped => Exit::Stopped,
        }
    }
}

/// An error as it is told: those that the parent does something about, and all others in words.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    PauseTimeout,
    StopTimeout,
    QemuEnded {
        how: String,
        message: String,
        console_tail: String,
    },
    Other {
        message: String,
        causes: Vec<String>,
        console_tail: Option<String>,
    },
}

impl From<Error> for Told {
    fn from(error: Error) -> Told {
        match error {
            Error::PauseTimeout => Told::PauseTimeout,
            Error::StopTimeout => Told::StopTimeout,
            Error::QemuEnded {
                how,
                message,
                console_tail,
            } => Told::QemuEnded {
                how,
                message,
                console_tail,
            },
            error => Told::other(&error, error.console_tail().map(str::to_owned)),
        }
    }
}

impl Told {
    /// Tells of any error.
    pub(super) fn other(error: &dyn std::error::Error, console_tail: Option<String>) -> Told {
        let mut causes = Vec::new();
        let mut cause = error.source();
        while let Some(error) = cause.filter(|_| causes.len() < MAX_CAUSES) {
            causes.push(error.to_string());
            cause = error.source();
        }
        Told::Other {
            message: error.to_string(),
            causes,
            console_tail,
        }
    }
}

impl From<Told> for Error {
    fn from(told: Told) -> Error {
        match told {
            Told::PauseTimeout => Error::PauseTimeout,
            Told::StopTimeout => Error::StopTimeout,
            Told::QemuEnded {
                how,
                message,
                console_tail,
            } => Error::QemuEnded {
                how: plain(&how),
                message: plain(&message),
                console_tail: plain(&console_tail),
            },
            Told::Other {
                message,
                causes,
                console_tail,
            } => {
                let causes = causes.into_iter().take(MAX_CAUSES).rev();
                let source = causes.fold(None, |source, cause| {
                    Some(Box::new(Error::Told {
                        message: plain(&cause),
                        source,
                        console_tail: None,
                    }))
                });
                Error::Told {
                    message: plain(&message),
                    source,
                    console_tail: console_tail.as_deref().map(plain),
                }
            }
        }
    }
}

/// Returns a text without control characters, but with its lines: who sent it may have been taken
/// over.
pub(super) fn plain(text: &str) -> String {
    let is_plain = |c: &char| !c.is_control() || *c == '\n';
    text.chars().filter(is_plain).collect()
}

/// Sends a message: the request of that number, or its answer.
pub(super) fn say(
    to: &Channel,
    number: u64,
    what: &impl Serialize,
    files: &[BorrowedFd<'_>],
    limit: Duration,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(&(number, what))?;
    to.send(&bytes, files, limit)
}

/// Waits for a message, at most for `limit` if there is one; `None` if the other side is gone.
///
/// # Errors
///
/// `TimedOut`, and `InvalidData` for what is none.
pub(super) fn hear<T: DeserializeOwned>(
    from: &Channel,
    limit: Option<Duration>,
) -> io::Result<Option<(u64, T, Message)>> {
    let Some(mut message) = from.receive(LONGEST, limit)? else {
        return Ok(None);
    };
    let bytes = std::mem::take(&mut message.bytes);
    let parsed = serde_json::from_slice(&bytes);
    let (number, what) =
        parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((number, what, message)))
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn passed_on(error: Error) -> Error {
        let told = serde_json::to_vec(&Told::from(error)).unwrap();
        serde_json::from_slice::<Told>(&told).unwrap().into()
    }

    #[test]
    fn errors_keep_their_causes_and_consoles() {
        let source = io::Error::new(io::ErrorKind::NotFound, "no such\x1b[31m thing");
        let error = passed_on(Error::Run {
            source,
            console_tail: "last\x07 words\nof it".into(),
        });
        assert_eq!(error.to_string(), "running a vCPU");
        assert_eq!(error.console_tail(), Some("last words\nof it"));
        let cause = error.source().unwrap();
        assert_eq!(cause.to_string(), "no such[31m thing");
        assert!(cause.source().is_none());
    }

    #[test]
    fn errors_that_are_acted_on_stay_what_they_are() {
        assert!(matches!(passed_on(Error::StopTimeout), Error::StopTimeout));
        assert!(matches!(
            passed_on(Error::PauseTimeout),
            Error::PauseTimeout
        ));
        let ended = Error::QemuEnded {
            how: "exited with status 3".into(),
            message: "why".into(),
            console_tail: String::new(),
        };
        assert_eq!(
            passed_on(ended).to_string(),
            "QEMU exited with status 3: why"
        );
    }
}
