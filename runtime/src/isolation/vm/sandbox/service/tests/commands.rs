//! Tests of what commands ask for, and of who gets which answer.

use std::io::Write;

use super::*;
use crate::isolation::{StatusError, vm::error::ClientError};

#[test]
fn a_container_is_started_once_and_signalled() {
    let outcome = play(
        |others| {
            assert_eq!(others.status(), Status::Created);
            others.start();
            let error = others.client().ask(&Ask::Start, LATE).unwrap_err();
            let words = StatusError::AlreadyRunning.to_string();
            assert_eq!(error.to_string(), words);
            let mut client = others.client();
            let told = thread::spawn(move || client.ask_guest(signal(40), LATE));
            assert!(matches!(
                others.request(),
                Request::Signal { signal: 40, .. }
            ));
            others.done();
            assert!(told.join().unwrap().is_ok());
            others.exit(7);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 7);
}

#[test]
fn a_start_that_fails_keeps_its_words_and_status() {
    let failure = Failure {
        message: "exec: no such file".into(),
        status: 127,
    };
    let told = failure.clone();
    let outcome = play(
        move |others| {
            let mut client = others.client();
            let starting = thread::spawn(move || client.ask(&Ask::Start, LATE));
            others.request();
            others.reply(Err(told));
            let error = starting.join().unwrap().unwrap_err();
            assert!(matches!(error, ClientError::Refused(f) if f == failure));
            assert_eq!(others.status(), Status::Created);
            others.exit(1);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 1);
}

#[test]
fn answers_find_who_asked() {
    let outcome = play(
        |others| {
            let asks = [("first", GuestAsk::Processes), ("second", GuestAsk::Stats)];
            let asking = asks.map(|(name, ask)| {
                let mut client = others.client();
                let asking = thread::spawn(move || client.ask_guest(ask, LATE).unwrap_err());
                // The requests come in this order.
                match others.request() {
                    Request::Processes { id } => assert_eq!((id.as_str(), name), ("a", "first")),
                    Request::Stats { id } => assert_eq!((id.as_str(), name), ("a", "second")),
                    other => panic!("{other:?}"),
                }
                (name, asking)
            });
            for (name, _) in &asking {
                others.reply(Err(Failure {
                    message: (*name).into(),
                    status: 1,
                }));
            }
            for (name, asking) in asking {
                assert_eq!(asking.join().unwrap().to_string(), name);
            }
            others.exit(0);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 0);
}

#[test]
fn neither_silence_nor_nonsense_nor_absence_does_any_harm() {
    let outcome = play(
        |others| {
            let folder = others.store.folder(&others.id);
            let connect = || wire::connect(&folder, LATE).unwrap().unwrap();
            let _silent = connect();
            let mut half = connect();
            half.write_all(&[200, 0, 0, 0, b'{']).unwrap();
            let mut nonsense = connect();
            nonsense.write_all(&[0xff; 8]).unwrap();
            assert!(protocol::receive::<Answer>(&mut nonsense).is_ok_and(|a| a.is_none()));
            let mut greedy = connect();
            // What only the sandbox process may ask for.
            let ping = serde_json::json!({ "guest": "ping" });
            protocol::send(&mut greedy, &ping).unwrap();
            assert!(protocol::receive::<Answer>(&mut greedy).is_ok_and(|a| a.is_none()));
            // A client that is gone when the answer comes.
            let mut gone = connect();
            protocol::send(&mut gone, &Ask::Guest(signal(10))).unwrap();
            others.request();
            drop(gone);
            others.done();
            others.start();
            others.exit(3);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 3);
}

#[test]
fn what_cannot_be_written_down_has_not_changed() {
    let outcome = play(
        |others| {
            others.start();
            let folder = others.store.folder(&others.id);
            // A file can't be written where a directory is.
            let obstacle = folder.join("state.json.new");
            std::fs::create_dir_all(obstacle.join("inner")).unwrap();
            let error = others.client().ask(&Ask::Pause, LATE).unwrap_err();
            assert!(matches!(error, ClientError::Refused(_)), "{error}");
            std::fs::remove_dir_all(&obstacle).unwrap();
            for ask in [Ask::Pause, Ask::Resume] {
                others.client().ask(&ask, LATE).unwrap();
            }
            others.exit(7);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 7);
}

#[test]
fn a_paused_container_takes_signals_and_nothing_else() {
    let outcome = play(
        |others| {
            others.start();
            let mut client = others.client();
            client.ask(&Ask::Resume, LATE).unwrap_err();
            client.ask(&Ask::Pause, LATE).unwrap();
            assert_eq!(others.status(), Status::Paused);
            client.ask(&Ask::Pause, LATE).unwrap_err();
            client.ask(&Ask::Start, LATE).unwrap_err();
            client.ask_guest(GuestAsk::Processes, LATE).unwrap_err();
            // The guest needn't answer, and does once it goes on.
            client.ask_guest(signal(10), LATE).unwrap();
            client.ask(&Ask::Resume, LATE).unwrap();
            assert_eq!(others.status(), Status::Running);
            assert!(matches!(
                others.request(),
                Request::Signal { signal: 10, .. }
            ));
            others.done();
            others.exit(0);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 0);
    let killed = play(
        |others| {
            let mut client = others.client();
            client.ask(&Ask::Pause, LATE).unwrap();
            client.ask_guest(signal(libc::SIGKILL), LATE).unwrap();
        },
        |_| (),
    );
    assert_eq!(killed.unwrap(), None);
}

#[test]
fn the_last_limit_on_memory_that_was_set_is_known() {
    let outcome = play(
        |others| {
            others.start();
            let known = |others: &Others| match others.store.look(&others.id).unwrap().record.by {
                By::Vm(vm) => vm.memory_limit,
                By::Process(_) => panic!(),
            };
            let refused = Failure {
                message: "no".into(),
                status: 1,
            };
            for (memory, reply, expected) in [
                (r#"{"limit": 20}"#, Ok(protocol::Answer::Done), Some(20)),
                (r#"{"swap": 40}"#, Ok(protocol::Answer::Done), Some(20)),
                (r#"{"limit": 30}"#, Err(refused), Some(20)),
                (r#"{"limit": -1}"#, Ok(protocol::Answer::Done), Some(-1)),
            ] {
                let mut client = others.client();
                let resources = format!(r#"{{"memory": {memory}}}"#);
                let update = GuestAsk::Update {
                    resources: serde_json::from_str(&resources).unwrap(),
                };
                let asking = thread::spawn(move || client.ask_guest(update, LATE));
                assert!(matches!(others.request(), Request::Update { .. }));
                let is_fine = reply.is_ok();
                others.reply(reply);
                assert_eq!(asking.join().unwrap().is_ok(), is_fine);
                assert_eq!(known(others), expected, "{memory}");
            }
            others.exit(0);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 0);
}
