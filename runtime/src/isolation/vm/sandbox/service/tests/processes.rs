//! Tests of processes that commands have started.

use super::*;
use crate::isolation::vm::error::ClientError;

impl Others {
    /// Tells of the end of a process that a command has started.
    fn end(&mut self, process: u32, status: u8) {
        let ended = Event::ProcessExited {
            id: "a".into(),
            process,
            status,
        };
        protocol::send(&mut self.guest, &ended).unwrap();
    }
}

#[test]
fn a_process_is_its_commands_until_its_end() {
    let outcome = play(
        |others| {
            others.start();
            for number in 1..=2 {
                let mut client = others.client();
                let asking = thread::spawn(move || {
                    let answer = client.ask_for_descriptors(&exec(), LATE).unwrap();
                    (client, answer)
                });
                let Request::Exec(asked) = others.request() else {
                    panic!()
                };
                assert_eq!(asked.number, number);
                assert!(asked.streams.stdin.is_some() && asked.streams.stdout.is_some());
                assert_eq!(asked.streams.stdout, asked.streams.stderr);
                others.reply(Ok(protocol::Answer::Executed { pid: 70 }));
                let (mut client, (answer, ends)) = asking.join().unwrap();
                assert!(matches!(answer, Answer::Executed { number: n } if n == number));
                assert_eq!(ends.len(), 2);
                others.end(number, 5);
                // Any other answer would come before.
                let answer = client.ask(&Ask::Resume, LATE).unwrap();
                assert!(matches!(answer, Answer::Exited { status: 5 }));
            }
            others.exit(0);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 0);
}

#[test]
fn a_process_that_cant_be_started_leaves_nothing() {
    let outcome = play(
        |others| {
            others.start();
            let mut client = others.client();
            let asking = thread::spawn(move || client.ask_for_descriptors(&exec(), LATE));
            others.request();
            others.reply(Err(Failure {
                message: "no such program".into(),
                status: 127,
            }));
            let error = asking.join().unwrap().unwrap_err();
            assert!(matches!(error, ClientError::Refused(f) if f.status == 127));
            others.exit(0);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 0);
}

/// Nor does the container then count as killed, which would soon end it.
#[test]
fn whoever_kills_a_process_hears_what_the_guest_says_of_it() {
    let outcome = play(
        |others| {
            others.start();
            let mut client = others.client();
            let mut kill = signal(libc::SIGKILL);
            if let GuestAsk::Signal { to, .. } = &mut kill {
                *to = Target::Process(1);
            }
            let asking = thread::spawn(move || client.ask_guest(kill, LATE));
            assert!(matches!(
                others.request(),
                Request::Signal {
                    to: Target::Process(1),
                    ..
                }
            ));
            others.reply(Err(Failure {
                message: "it has ended".into(),
                status: 1,
            }));
            let error = asking.join().unwrap().unwrap_err();
            assert_eq!(error.to_string(), "it has ended");
            others.exit(3);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 3);
}

#[test]
fn a_process_whose_command_goes_is_killed() {
    let outcome = play(
        |others| {
            others.start();
            // One client goes before it hears of its process, one after.
            let mut gone = others.client();
            gone.send(&exec()).unwrap();
            others.request();
            drop(gone);
            others.reply(Ok(protocol::Answer::Executed { pid: 70 }));
            let mut client = others.client();
            let asking = thread::spawn(move || {
                client.ask_for_descriptors(&exec(), LATE).unwrap();
            });
            let mut killed = Vec::new();
            let mut started = false;
            while killed.len() < 2 {
                match others.request() {
                    Request::Exec(asked) => {
                        assert!(!started && asked.number == 2);
                        started = true;
                        others.reply(Ok(protocol::Answer::Executed { pid: 71 }));
                    }
                    Request::Signal {
                        signal: libc::SIGKILL,
                        to: Target::Process(number),
                        ..
                    } => {
                        killed.push(number);
                        others.done();
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(killed, [1, 2]);
            asking.join().unwrap();
            for process in killed {
                others.end(process, 137);
            }
            others.exit(0);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 0);
}

#[test]
fn the_end_of_a_process_that_never_was_ends_the_guest() {
    let outcome = play(|others| others.end(9, 0), |_| ());
    assert!(outcome.is_err());
}
