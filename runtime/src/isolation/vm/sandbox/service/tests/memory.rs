//! Tests of what the guest says about its memory.

use super::*;

#[test]
fn whoever_watches_is_told_that_memory_ran_out() {
    let outcome = play(
        |others| {
            let mut client = others.client();
            client.ask(&Ask::Watch, LATE).unwrap();
            let _other = others.client();
            let event = Event::OutOfMemory { id: "a".into() };
            protocol::send(&mut others.guest, &event).unwrap();
            let begun = Instant::now();
            let heard = loop {
                match client.answer().unwrap() {
                    None if begun.elapsed() < LATE => thread::sleep(Duration::from_millis(1)),
                    heard => break heard,
                }
            };
            assert!(matches!(heard, Some(Answer::OutOfMemory)));
            others.exit(0);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 0);
}

#[test]
fn a_guest_cannot_flood_whoever_watches() {
    const TOLD: u32 = 1000;
    let outcome = play(
        |others| {
            others.start();
            let mut watching = others.client();
            watching.ask(&Ask::Watch, LATE).unwrap();
            for _ in 0..TOLD {
                let event = Event::OutOfMemory { id: "a".into() };
                protocol::send(&mut others.guest, &event).unwrap();
            }
            let mut heard = 0;
            let mut is_quiet = false;
            while !is_quiet {
                match watching.answer().unwrap() {
                    Some(_) => heard += 1,
                    None => {
                        // By then all that the guest said before has been taken.
                        is_quiet = heard > 0;
                        others.client().ask(&Ask::Pause, LATE).unwrap();
                        others.client().ask(&Ask::Resume, LATE).unwrap();
                    }
                }
            }
            // The time that passes allows some more; a socket would hold hundreds.
            assert!((1..100).contains(&heard), "{heard}");
            others.exit(0);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 0);
}
