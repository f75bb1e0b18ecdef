//! Drains the workload's output: the sandbox process from the workload's end until its output has
//! been taken, however long that takes. Until then the container counts as running, so it can still
//! be killed, and deleted by force; nothing else can be asked of it.

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    time::Instant,
};

use nacre_agent::protocol::{self, Event, Target};

use crate::{
    isolation::{
        signals::ends_a_start,
        status_error::StatusError,
        vm::{
            error::SessionError,
            wire::{Answer, Ask, GuestAsk, refused},
        },
        wait::Interest,
    },
    state::Status,
};

use super::{
    clients::{Clients, Endpoint},
    session::{Machine, Session, Wake},
};

/// What else is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Clients(Endpoint),
    Output,
}

/// Waits until `output` is at its end of file, or until a signal, a command or the deadline says to
/// stop waiting.
pub(super) fn drain<M: Machine>(
    session: &mut Session<'_, M>,
    mut clients: Clients,
    output: &UnixStream,
    deadline: Option<Instant>,
) -> Result<(), SessionError> {
    loop {
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Ok(());
        }
        // These are replies to clients that have no more use for them.
        let has_more = session.received::<Event>()?.map(|_| now);
        let next = [deadline, clients.deadline(), has_more]
            .into_iter()
            .flatten()
            .min();
        let of_clients = clients.interests(true);
        let of_clients = of_clients.iter().map(|it| it.map(Awaited::Clients));
        let mut others: Vec<_> = of_clients.collect();
        others.push(Interest::readable(Awaited::Output, output.as_fd()));
        match session.wake(next, &others)? {
            Wake::Signal(signal) if ends_a_start(signal).is_some() => return Ok(()),
            Wake::Message | Wake::Signal(_) => {}
            Wake::MachineEnded => {
                return Err(SessionError::MachineEnded("the workload's output"));
            }
            Wake::Deadline => clients.drop_silent(),
            Wake::Others(events) => {
                if events.has(Awaited::Output) {
                    return Ok(());
                }
                let of_clients = events.filter_map(|awaited| match awaited {
                    Awaited::Clients(endpoint) => Some(*endpoint),
                    Awaited::Output => None,
                });
                let mut is_killed = false;
                for (client, ask) in clients.advance(&of_clients) {
                    let answer = match signal_of(&ask) {
                        Some(signal) => {
                            is_killed |= signal == libc::SIGKILL;
                            Answer::Guest(protocol::Answer::Done)
                        }
                        None => refused(&StatusError::NotRunning {
                            id: session.id.clone(),
                            status: Status::Stopped,
                        }),
                    };
                    clients.answer(client, &answer);
                }
                if is_killed {
                    return Ok(());
                }
            }
        }
    }
}

/// Returns the signal that a command sends to the container.
fn signal_of(ask: &Ask) -> Option<i32> {
    match ask {
        Ask::Guest(GuestAsk::Signal {
            signal,
            to: Target::First | Target::All,
        }) => Some(*signal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;
    use crate::isolation::vm::{
        commands::Client,
        error::ClientError,
        sandbox::session::tests::{FakeMachine, LATE, SOON, play},
        wire,
    };

    /// Drains until `others` brings that to an end; it gets the container's folder and the other
    /// end of its output.
    fn drained(
        others: impl FnOnce(&std::path::Path, &mut Option<UnixStream>) + Send + 'static,
        deadline: Option<Duration>,
    ) -> Result<(), SessionError> {
        let folder = tempfile::tempdir().unwrap();
        let clients = Clients::new(wire::listen(folder.path()).unwrap());
        let (output, writing) = UnixStream::pair().unwrap();
        let mut writing = Some(writing);
        let path = folder.path().to_owned();
        let mut outcome = None;
        let host = |session: &mut Session<'_, FakeMachine>| {
            let deadline = deadline.map(|time| Instant::now() + time);
            outcome = Some(drain(session, clients, &output, deadline));
        };
        let guest = move |_: &mut _| {
            others(&path, &mut writing);
            writing
        };
        play(guest, host);
        outcome.unwrap()
    }

    fn signal(number: i32) -> GuestAsk {
        GuestAsk::Signal {
            signal: number,
            to: Target::First,
        }
    }

    #[test]
    fn output_is_waited_for_until_it_has_been_taken() {
        let taken = |_: &_, writing: &mut Option<_>| {
            thread::sleep(SOON);
            drop(writing.take());
        };
        drained(taken, None).unwrap();
        drained(|_, _| (), Some(SOON)).unwrap();
    }

    #[test]
    fn whoever_waits_for_a_container_whose_output_nobody_takes_can_kill_it() {
        let kill = |folder: &std::path::Path, _: &mut _| {
            let client = || Client::connect(folder).unwrap();
            let error = client().ask(&Ask::Pause, LATE).unwrap_err();
            assert!(matches!(error, ClientError::Refused(_)), "{error}");
            client().ask_guest(signal(libc::SIGTERM), LATE).unwrap();
            client().ask_guest(signal(libc::SIGKILL), LATE).unwrap();
        };
        drained(kill, None).unwrap();
    }
}
