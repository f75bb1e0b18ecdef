//! Guests that say nothing.

use super::*;

/// Watches so closely that a test doesn't take long.
fn watch(service: &mut Service<'_, FakeMachine>) {
    service.watchdog = Watchdog::new(Duration::from_millis(200), Instant::now());
}

#[test]
fn a_guest_that_says_nothing_is_frozen() {
    let outcome = play(
        |others| {
            assert!(matches!(others.request(), Request::Ping));
            // It is asked once more, unless this comes too late and nobody listens.
            let result = Ok(protocol::Answer::Done);
            let _ = protocol::send(&mut others.guest, &Event::Reply { result });
            let again = protocol::receive(&mut others.guest);
            assert!(matches!(again, Ok(Some(Request::Ping) | None) | Err(_)));
        },
        watch,
    );
    assert!(matches!(
        outcome,
        Err(VmError::Session {
            error: SessionError::Frozen(_),
            ..
        })
    ));
}

#[test]
fn a_guest_that_is_paused_or_starts_its_container_is_not_frozen() {
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
        watch,
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
                assert!(matches!(others.request(), Request::Exec(_)));
            }
            for _ in clients {
                thread::sleep(Duration::from_millis(500));
                others.reply(Err(Failure {
                    message: "no such program".into(),
                    status: 127,
                }));
            }
            // Nothing keeps it from a word now, which it doesn't say.
        },
        watch,
    );
    assert!(matches!(
        outcome,
        Err(VmError::Session {
            error: SessionError::Frozen(_),
            ..
        })
    ));
}
