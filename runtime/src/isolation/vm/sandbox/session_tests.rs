use std::{io::Write, net::Shutdown, thread};

use nacre_agent::protocol::{self, Answer, Failure, Streams};
use nix::sys::signal::Signal;

use super::*;

pub(in super::super) const SOON: Duration = Duration::from_millis(50);
pub(in super::super) const LATE: Duration = Duration::from_secs(20);

/// A machine that ends when its other half is dropped.
pub(in super::super) struct FakeMachine(UnixStream);

impl Machine for FakeMachine {
    fn ended(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn pause(&self) -> Result<(), nacre_vmm::Error> {
        Ok(())
    }

    fn resume(&self) -> Result<(), nacre_vmm::Error> {
        Ok(())
    }
}

/// The other ends, open until the host is done unless the test drops them.
pub(in super::super) struct Other {
    guest: UnixStream,
    machine: Option<UnixStream>,
    caller: Option<UnixStream>,
}

/// Plays `guest` against `host`.
pub(in super::super) fn play<T: Send + 'static>(
    guest: impl FnOnce(&mut Other) -> T + Send + 'static,
    host: impl FnOnce(&mut Session<'_, FakeMachine>),
) -> T {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (machine, its_end) = UnixStream::pair().unwrap();
    let (caller, callers_end) = UnixStream::pair().unwrap();
    let machine = FakeMachine(machine);
    let signals = Signals::block().unwrap();
    let control = Control::new(ours).unwrap();
    let mut other = Other {
        guest: theirs,
        machine: Some(its_end),
        caller: Some(callers_end),
    };
    let guest = thread::spawn(move || (guest(&mut other), other));
    host(&mut Session::new(SessionParts {
        machine: &machine,
        control,
        signals: &signals,
        caller: Some(&caller),
        id: "a".into(),
        effort: Effort::default(),
        has_pair: false,
        file_server: None,
    }));
    guest.join().unwrap().0
}

fn hello(version: u32) -> Hello {
    Hello {
        version,
        kernel: "6.12".into(),
    }
}

fn reply(guest: &mut UnixStream, result: Result<(), Failure>) {
    let result = result.map(|()| Answer::Done);
    protocol::send(guest, &Event::Reply { result }).unwrap();
}

fn request(guest: &mut UnixStream) -> Request {
    protocol::receive(guest).unwrap().unwrap()
}

fn create() -> Create {
    Create {
        id: "a".into(),
        spec: Default::default(),
        has_share: false,
        mounts: Vec::new(),
        upper: None,
        bundle: "/".into(),
        streams: Streams::default(),
        no_new_keyring: false,
    }
}

/// Raises a signal for this thread, where it is blocked.
fn raise(signal: Signal) {
    // SAFETY: pthread_self is this very thread.
    let sent = unsafe { libc::pthread_kill(libc::pthread_self(), signal as i32) };
    assert_eq!(sent, 0);
}

#[test]
fn a_silent_guest_is_waited_for_until_the_deadline() {
    play(
        |_| (),
        |session| {
            let error = session.hello(SOON).unwrap_err();
            assert!(matches!(error, SessionError::NoHello(_)), "{error}");
        },
    );
}

#[test]
fn half_a_message_is_waited_for_until_the_deadline() {
    play(
        |other| {
            other.guest.write_all(&[200, 0, 0, 0, b'{']).unwrap();
        },
        |session| {
            let error = session.hello(SOON).unwrap_err();
            assert!(matches!(error, SessionError::NoHello(_)), "{error}");
        },
    );
}

#[test]
fn a_guest_that_never_answers_is_waited_for_until_the_deadline() {
    play(
        |other| {
            request(&mut other.guest);
        },
        |session| {
            let error = session.create(create(), SOON).unwrap_err();
            assert_eq!(
                error.to_string(),
                "the guest didn't create the container within 0.05 s"
            );
        },
    );
}

#[test]
fn another_version_is_refused() {
    play(
        |other| protocol::send(&mut other.guest, &hello(VERSION + 1)).unwrap(),
        |session| {
            let error = session.hello(LATE).unwrap_err();
            assert!(matches!(error, SessionError::Version { theirs } if theirs == VERSION + 1));
        },
    );
}

#[test]
fn no_kernels_release_is_refused() {
    for (kernel, is_fine) in [
        ("6".repeat(64), true),
        ("6".repeat(65), false),
        ("6.1\u{1b}[2J".into(), false),
    ] {
        let hello = Hello {
            kernel,
            ..hello(VERSION)
        };
        play(
            move |other| protocol::send(&mut other.guest, &hello).unwrap(),
            |session| match session.hello(LATE) {
                Ok(_) => assert!(is_fine),
                Err(error) => assert!(!is_fine && matches!(error, SessionError::Kernel)),
            },
        );
    }
}

#[test]
fn what_is_no_message_is_refused() {
    for bytes in [&[0xff; 8][..], &[2, 0, 0, 0, b'h', b'i']] {
        let bytes = bytes.to_vec();
        play(
            move |other| {
                other.guest.write_all(&bytes).unwrap();
            },
            |session| {
                let error = session.hello(LATE).unwrap_err();
                assert!(matches!(error, SessionError::Control(_)), "{error}");
            },
        );
    }
}

#[test]
fn what_the_engine_refuses_keeps_its_words_and_status() {
    let failure = Failure {
        message: "exec: \"x\": executable file not found in $PATH".into(),
        status: 127,
    };
    let told = failure.clone();
    play(
        move |other| {
            request(&mut other.guest);
            reply(&mut other.guest, Err(told));
        },
        |session| {
            let error = session.create(create(), LATE).unwrap_err();
            assert!(matches!(error, SessionError::Refused(f) if f == failure));
        },
    );
}

#[test]
fn the_machines_end_is_noticed() {
    // The agent's connection stays open, and silent.
    play(
        |other| drop(other.machine.take()),
        |session| {
            let error = session.hello(LATE).unwrap_err();
            assert!(matches!(error, SessionError::MachineEnded(_)), "{error}");
        },
    );
    // Its connection ends as well, and may be seen to end first.
    let hang_up_and_end = |other: &mut Other| {
        other.guest.shutdown(Shutdown::Both).unwrap();
        thread::sleep(SOON);
        drop(other.machine.take());
    };
    play(hang_up_and_end, |session| {
        let error = session.hello(LATE).unwrap_err();
        assert!(matches!(error, SessionError::MachineEnded(_)), "{error}");
    });
}

#[test]
fn an_agent_that_hangs_up_ends_the_session() {
    play(
        |other| {
            other.guest.shutdown(Shutdown::Write).unwrap();
        },
        |session| {
            let error = session.hello(LATE).unwrap_err();
            assert!(
                matches!(error, SessionError::Control(ControlError::Closed)),
                "{error}"
            );
        },
    );
}

#[test]
fn the_callers_end_ends_the_session() {
    play(
        |other| {
            drop(other.caller.take());
        },
        |session| {
            let error = session.hello(LATE).unwrap_err();
            assert!(matches!(error, SessionError::CallerGone), "{error}");
        },
    );
}

#[test]
fn a_signal_before_the_creation_ends_it_or_waits_for_the_workload() {
    play(
        |_| (),
        |session| {
            raise(Signal::SIGTERM);
            let error = session.hello(LATE).unwrap_err();
            assert!(matches!(error, SessionError::Interrupted(Signal::SIGTERM)));
        },
    );
    play(
        |_| (),
        |session| {
            raise(Signal::SIGWINCH);
            assert!(session.hello(SOON).is_err());
            assert_eq!(session.pending, [libc::SIGWINCH]);
        },
    );
}
