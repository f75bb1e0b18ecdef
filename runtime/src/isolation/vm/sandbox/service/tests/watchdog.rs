//! Tests of guests that say nothing.

use super::*;

/// Sets a time limit so short that a test doesn't take long.
fn watch(service: &mut Service<'_, FakeMachine>) {
    service.watchdog = Watchdog::new(Duration::from_millis(200), Instant::now());
}

fn is_frozen(outcome: &Result<Option<Exited>, VmError>) -> bool {
    matches!(
        outcome,
        Err(VmError::Session {
            error: SessionError::Frozen(_),
            ..
        })
    )
}

#[test]
fn a_guest_that_says_nothing_is_frozen() {
    let outcome = play(
        |others| {
            assert!(matches!(others.request(), Request::Ping));
            // It is pinged once more, unless this comes too late and nobody listens.
            let result = Ok(protocol::Answer::Done);
            let _ = protocol::send(&mut others.guest, &Event::Reply { result });
            let again = protocol::receive(&mut others.guest);
            assert!(matches!(again, Ok(Some(Request::Ping) | None) | Err(_)));
        },
        watch,
    );
    assert!(is_frozen(&outcome));
}

#[test]
fn a_guest_that_is_paused_or_runs_hooks_is_not_frozen() {
    let outcome = play(
        |others| {
            let mut client = others.client();
            let starting = thread::spawn(move || client.ask(&Ask::Start, LATE));
            others.request();
            thread::sleep(Duration::from_millis(500));
            others.done();
            assert!(starting.join().unwrap().is_ok());
            let mut client = others.client();
            client.ask(&Ask::Pause, LATE).unwrap();
            thread::sleep(Duration::from_millis(500));
            client.ask(&Ask::Resume, LATE).unwrap();
            others.exit(3);
        },
        |service| {
            service.notes.note(|vm| vm.start_hooks = 1).unwrap();
            watch(service);
        },
    );
    assert_eq!(status(outcome), 3);
}

#[test]
fn a_guest_that_starts_a_process_is_not_frozen_for_a_while() {
    let outcome = play(
        |others| {
            others.start();
            let mut clients = [others.client(), others.client()];
            for client in &mut clients {
                client.send(&exec()).unwrap();
                assert!(matches!(others.request_but_pings(), Request::Exec(_)));
            }
            for _ in clients {
                thread::sleep(Duration::from_millis(500));
                others.reply(Err(Failure {
                    message: "no such program".into(),
                    status: 127,
                }));
            }
            // Nothing keeps it from speaking any more, but it doesn't.
        },
        watch,
    );
    assert!(is_frozen(&outcome));
}

#[test]
fn nobody_waits_for_long_for_a_guest_that_says_nothing() {
    let outcome = play(
        |others| {
            others.start();
            let mut client = others.client();
            client.ask_guest(signal(libc::SIGTERM), LATE).unwrap();
            let mut clients = [others.client(), others.client()];
            let stats = Ask::Guest(GuestAsk::Stats);
            for (client, ask) in clients.iter_mut().zip([stats, exec()]) {
                let error = client.ask(&ask, LATE).unwrap_err();
                assert!(error.to_string().contains("hasn't answered"), "{error}");
            }
            // What it says in the end still goes to whoever asked: the process is one that nobody
            // waits for.
            assert!(matches!(others.request(), Request::Signal { .. }));
            assert!(matches!(others.request(), Request::Stats { .. }));
            assert!(matches!(others.request(), Request::Exec(_)));
            others.done();
            others.done();
            others.reply(Ok(protocol::Answer::Executed { pid: 5 }));
            assert!(matches!(
                others.request(),
                Request::Signal {
                    signal: libc::SIGKILL,
                    to: Target::Process(1),
                    ..
                }
            ));
            others.exit(3);
        },
        |service| service.silence = Silence::new(Duration::from_millis(20)),
    );
    assert_eq!(status(outcome), 3);
}

#[test]
fn a_guest_that_does_not_start_its_container_is_frozen() {
    let outcome = play(
        |others| {
            let mut client = others.client();
            client.send(&Ask::Start).unwrap();
            assert!(matches!(others.request(), Request::Start { .. }));
            // From here on it says nothing.
            while protocol::receive::<Request>(&mut others.guest).is_ok_and(|r| r.is_some()) {}
        },
        watch,
    );
    assert!(is_frozen(&outcome));
}
