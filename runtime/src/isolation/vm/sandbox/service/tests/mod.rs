//! Plays the guest, the machine and commands against a service.

mod clock;
mod commands;
mod memory;
mod processes;
mod watchdog;

use std::{
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use nacre_vmm::devices::virtio::vsock::Vsock;
use nix::sys::signal::Signal;

use super::*;
use crate::{
    id::Id,
    isolation::{
        record::new_record,
        remains,
        signals::Signals,
        vm::{
            commands::Client,
            control::Control,
            sandbox::{
                effort::Effort,
                file_policy::{FilePolicy, tests::Nobody},
                session::SessionParts,
            },
            streams::{Expected, Stderr, Wanted},
            wire::{self, Ask, GuestAsk},
        },
    },
    state::{By, Status, Store, record},
};

const LATE: Duration = Duration::from_secs(20);

/// A machine that ends when its other half is dropped.
struct FakeMachine(UnixStream, AtomicBool);

impl Machine for FakeMachine {
    fn ended(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn pause(&self) -> Result<(), nacre_vmm::Error> {
        assert!(!self.1.swap(true, Ordering::SeqCst));
        Ok(())
    }

    fn resume(&self) -> Result<(), nacre_vmm::Error> {
        assert!(self.1.swap(false, Ordering::SeqCst));
        Ok(())
    }
}

/// The ends that the test holds.
struct Others {
    guest: UnixStream,
    machine: Option<UnixStream>,
    store: Store,
    id: Id,
}

impl Others {
    fn client(&self) -> Client {
        Client::connect(&self.store.folder(&self.id)).unwrap()
    }

    /// Returns the next request that isn't about the clock, whose time is right.
    fn request(&mut self) -> Request {
        loop {
            match protocol::receive(&mut self.guest).unwrap().unwrap() {
                Request::Clock(_) => self.reply(Ok(protocol::Answer::Clock(now()))),
                request => return request,
            }
        }
    }

    fn reply(&mut self, result: Result<protocol::Answer, Failure>) {
        protocol::send(&mut self.guest, &Event::Reply { result }).unwrap();
    }

    fn done(&mut self) {
        self.reply(Ok(protocol::Answer::Done));
    }

    fn exit(&mut self, status: u8) {
        let event = Event::Exited {
            id: "a".into(),
            status,
            oom_killed: false,
            used: None,
        };
        protocol::send(&mut self.guest, &event).unwrap();
    }

    /// Receives a request, and answers what the watchdog asks before it on a busy machine.
    fn request_but_pings(&mut self) -> Request {
        loop {
            match self.request() {
                Request::Ping => self.done(),
                request => return request,
            }
        }
    }

    /// Has the container started by a command of its own.
    fn start(&mut self) {
        let mut client = self.client();
        let starting = thread::spawn(move || client.ask(&Ask::Start, LATE));
        assert!(matches!(self.request_but_pings(), Request::Start { id } if id == "a"));
        self.done();
        assert!(matches!(starting.join().unwrap(), Ok(Answer::Done)));
        assert_eq!(self.status(), Status::Running);
    }

    fn status(&self) -> Status {
        self.store.look(&self.id).unwrap().status
    }
}

/// Returns the host's clock, in nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_nanos().try_into().unwrap()
}

/// Returns a request for a process with standard input and output.
fn exec() -> Ask {
    Ask::Exec(Box::new(wire::Exec {
        process: Default::default(),
        streams: Wanted::Standard {
            stdin: true,
            stdout: true,
            stderr: Stderr::Stdout,
        },
        cgroups: Vec::new(),
    }))
}

fn signal(number: i32) -> GuestAsk {
    GuestAsk::Signal {
        signal: number,
        to: Target::First,
    }
}

/// Plays guest and commands against a service that serves meanwhile.
fn play(
    others: impl FnOnce(&mut Others) + Send + 'static,
    prepare: impl FnOnce(&mut Service<'_, FakeMachine>),
) -> Result<Option<Exited>, VmError> {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path()).unwrap();
    let id = Id::new("a").unwrap();
    let folder = remains::claim(&store, &id).unwrap();
    let by = By::Vm(record::VmRecord::example());
    let record = new_record(&id, "/".into(), &Default::default(), by);
    let notes = Notes::begin(&folder, record).unwrap();
    let listener = wire::listen(folder.path()).unwrap();
    let (ours, guest) = UnixStream::pair().unwrap();
    let (machine, its_end) = UnixStream::pair().unwrap();
    let machine = FakeMachine(machine, AtomicBool::new(false));
    let signals = Signals::block().unwrap();
    let control = Control::new(ours).unwrap();
    let session = Session::new(SessionParts {
        machine: &machine,
        control,
        signals: &signals,
        caller: None,
        id: "a".into(),
        effort: Effort::default(),
        has_pair: false,
        file_server: None,
    });
    let (_vsock, ports) = Vsock::new(3).unwrap();
    let file_policy = FilePolicy::new(Arc::new(Nobody), &oci_spec::runtime::Spec::default());
    let parts = ServiceParts {
        notes,
        clients: Clients::new(listener),
        executed: Executed::new(Expected::new(ports), file_policy),
        limits: None,
        terminal: None,
        disk: None,
        file_alarm: None,
        network: None,
        caller_stays: CallerStays::UntilTheEnd,
        watchdog: Duration::ZERO,
    };
    let mut service = Service::new(session, parts);
    prepare(&mut service);
    let mut held = Others {
        guest,
        machine: Some(its_end),
        store,
        id,
    };
    let playing = thread::spawn(move || {
        others(&mut held);
        held
    });
    let outcome = service.serve();
    // Whoever still waits for a request sees that there is none.
    drop(service);
    let _held = playing.join().unwrap();
    outcome
}

/// Raises a signal for this thread, where it is blocked.
fn raise(signal: Signal) {
    // SAFETY: pthread_self is this very thread.
    let sent = unsafe { libc::pthread_kill(libc::pthread_self(), signal as i32) };
    assert_eq!(sent, 0);
}

fn status(outcome: Result<Option<Exited>, VmError>) -> u8 {
    outcome.unwrap().unwrap().status
}

#[test]
fn a_guest_that_never_stops_talking_keeps_nobody_waiting() {
    let outcome = play(
        |others| {
            others.start();
            let mut guest = others.guest.try_clone().unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let talk = move || {
                let event = Event::OutOfMemory { id: "a".into() };
                while !stopped.load(Ordering::SeqCst) {
                    protocol::send(&mut guest, &event).unwrap();
                }
            };
            let talking = thread::spawn(talk);
            for _ in 0..20 {
                for ask in [Ask::Pause, Ask::Resume] {
                    others.client().ask(&ask, LATE).unwrap();
                }
            }
            stop.store(true, Ordering::SeqCst);
            talking.join().unwrap();
            others.exit(7);
        },
        |_| (),
    );
    assert_eq!(status(outcome), 7);
}

#[test]
fn what_this_process_is_sent_reaches_the_workload() {
    let outcome = play(
        |others| {
            assert!(matches!(
                others.request(),
                Request::Signal { signal, to: Target::First, .. } if signal == libc::SIGUSR1
            ));
            others.done();
            others.exit(0);
        },
        |_| raise(Signal::SIGUSR1),
    );
    assert_eq!(status(outcome), 0);
    // A signal waits for the workload, if that is started next.
    let outcome = play(
        |others| {
            others.start();
            let mut got = [0; 2];
            for got in &mut got {
                let Request::Signal { signal, .. } = others.request() else {
                    panic!()
                };
                *got = signal;
                others.done();
            }
            assert_eq!(got, [libc::SIGWINCH, libc::SIGUSR2]);
            others.exit(0);
        },
        |service| {
            service.session.pending = vec![libc::SIGWINCH];
            service.session.hears_signals = false;
            raise(Signal::SIGUSR2);
        },
    );
    assert_eq!(status(outcome), 0);
}

#[test]
fn what_nobody_asked_for_ends_the_guest() {
    for event in [
        Event::Reply {
            result: Ok(protocol::Answer::Done),
        },
        Event::Exited {
            id: "b".into(),
            status: 0,
            oom_killed: false,
            used: None,
        },
    ] {
        let outcome = play(
            move |others| protocol::send(&mut others.guest, &event).unwrap(),
            |_| (),
        );
        assert!(matches!(
            outcome,
            Err(VmError::Session {
                error: SessionError::Unasked,
                ..
            })
        ));
    }
}

#[test]
fn the_machines_end_is_noticed() {
    let outcome = play(|others| drop(others.machine.take()), |_| ());
    assert!(matches!(
        outcome,
        Err(VmError::Session {
            error: SessionError::MachineEnded(_),
            ..
        })
    ));
}
