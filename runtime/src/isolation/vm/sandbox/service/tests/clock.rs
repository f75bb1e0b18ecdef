//! Guests whose clocks are off.

use nacre_agent::protocol::Correction;

use super::*;

const SECOND: i64 = 1_000_000_000;

/// Answers questions about the clock as a guest that is this far behind, and can't be corrected,
/// until another request comes. Returns that request and the last correction.
fn behind(others: &mut Others, by: i64) -> (Request, Option<Correction>) {
    let mut last = None;
    loop {
        match protocol::receive(&mut others.guest).unwrap().unwrap() {
            Request::Clock(correction) => {
                last = correction.or(last);
                others.reply(Ok(protocol::Answer::Clock(now() - by)));
            }
            request => return (request, last),
        }
    }
}

fn is_about(correction: Option<Correction>, expected: i64) -> bool {
    matches!(correction, Some(Correction::Step(by)) if by.abs_diff(expected) < SECOND as u64 / 2)
}

#[test]
fn the_clock_is_right_before_the_workload_starts_and_after_a_pause() {
    let outcome = play(
        |others| {
            let mut client = others.client();
            let starting = thread::spawn(move || client.ask(&Ask::Start, LATE));
            let (request, correction) = behind(others, 3 * SECOND);
            assert!(matches!(request, Request::Start { .. }));
            assert!(is_about(correction, 3 * SECOND), "{correction:?}");
            others.done();
            starting.join().unwrap().unwrap();
            for ask in [Ask::Pause, Ask::Resume] {
                others.client().ask(&ask, LATE).unwrap();
            }
            let mut client = others.client();
            let asking = thread::spawn(move || {
                thread::sleep(Duration::from_millis(100));
                client.ask_guest(signal(10), LATE)
            });
            let (_, correction) = behind(others, -5 * SECOND);
            assert!(is_about(correction, -5 * SECOND), "{correction:?}");
            others.done();
            asking.join().unwrap().unwrap();
            others.exit(3);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 3);
}

#[test]
fn a_container_starts_whatever_becomes_of_the_clock() {
    let outcome = play(
        |others| {
            let mut client = others.client();
            let starting = thread::spawn(move || client.ask(&Ask::Start, LATE));
            let asked = protocol::receive(&mut others.guest).unwrap();
            assert!(matches!(asked, Some(Request::Clock(None))));
            others.reply(Err(Failure {
                message: "no clock".into(),
                status: 1,
            }));
            assert!(matches!(others.request(), Request::Start { .. }));
            others.done();
            starting.join().unwrap().unwrap();
            others.exit(3);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 3);
}
