//! Tests the server against a host at the other end of a socketpair, with shells as containers.

mod fake;
mod processes;
mod streams;

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nacre_agent::protocol::Target;
use nix::sys::signal::{Signal, kill};
use oci_spec::runtime::{Process as ProcessSpec, Spec};

use self::fake::{Fake, watch_children};
use super::*;

const SOON: Duration = Duration::from_secs(60);

/// A server reaps every child of the process, so only one can run at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Host {
    control: UnixStream,
    streams: HashMap<u32, UnixStream>,
    server: JoinHandle<Result<(), ServeError>>,
    _alone: MutexGuard<'static, ()>,
}

impl Host {
    fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (control, guest) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(SOON)).unwrap();
        let mut ports = HashMap::new();
        let mut streams = HashMap::new();
        for port in 1..=9 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_read_timeout(Some(SOON)).unwrap();
            ours.set_write_timeout(Some(SOON)).unwrap();
            ports.insert(port, theirs.into());
            streams.insert(port, ours);
        }
        let children = watch_children();
        let server = thread::spawn(move || serve(Fake::new(ports), guest.into(), children));
        let mut host = Host {
            control,
            streams,
            server,
            _alone: alone,
        };
        let hello: Hello = protocol::receive(&mut host.control).unwrap().unwrap();
        assert_eq!(hello.version, VERSION);
        assert!(!hello.kernel.is_empty());
        host
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        protocol::send(&mut self.control, request).unwrap();
        match self.event() {
            Event::Reply { result } => result,
            other => panic!("{other:?} before the reply"),
        }
    }

    fn event(&mut self) -> Event {
        protocol::receive(&mut self.control).unwrap().unwrap()
    }

    /// Creates a container with three streams that runs `script`, from port `first` on.
    fn create(&mut self, id: &str, script: &str, first: u32) -> Result<Answer, Failure> {
        self.create_program(id, &["sh", "-c", script], first)
    }

    fn create_program(&mut self, id: &str, args: &[&str], first: u32) -> Result<Answer, Failure> {
        let streams = Streams {
            stdin: Some(first),
            stdout: Some(first + 1),
            stderr: Some(first + 2),
            terminal: None,
        };
        self.create_with(id, args, streams)
    }

    fn create_with(
        &mut self,
        id: &str,
        args: &[&str],
        streams: Streams,
    ) -> Result<Answer, Failure> {
        let mut spec = Spec::default();
        let process = spec.process_mut().as_mut().unwrap();
        process.set_args(Some(args.iter().map(|&arg| arg.to_owned()).collect()));
        self.ask(&Request::Create(Box::new(Create {
            id: id.to_owned(),
            spec,
            has_share: false,
            mounts: Vec::new(),
            upper: None,
            bundle: "/".into(),
            streams,
            no_new_keyring: false,
        })))
    }

    fn start(&mut self, id: &str) -> Result<Answer, Failure> {
        self.ask(&Request::Start { id: id.to_owned() })
    }

    fn run(&mut self, script: &str) {
        self.create("c", script, 1).unwrap();
        self.start("c").unwrap();
    }

    /// Starts `sh -c script` in the container `c`, with three streams from port `first` on.
    fn exec(&mut self, number: u32, script: &str, first: u32) -> Result<Answer, Failure> {
        let streams = Streams {
            stdin: Some(first),
            stdout: Some(first + 1),
            stderr: Some(first + 2),
            terminal: None,
        };
        self.exec_with(number, &["sh", "-c", script], streams)
    }

    fn exec_with(
        &mut self,
        number: u32,
        args: &[&str],
        streams: Streams,
    ) -> Result<Answer, Failure> {
        let mut process = ProcessSpec::default();
        process
            .set_args(Some(args.iter().map(|&arg| arg.to_owned()).collect()))
            .set_terminal(Some(streams.terminal.is_some()));
        self.ask(&Request::Exec(Box::new(Exec {
            id: "c".to_owned(),
            number,
            process,
            streams,
            cgroups: Vec::new(),
        })))
    }

    fn signal(&mut self, signal: i32, to: Target) -> Result<Answer, Failure> {
        self.ask(&Request::Signal {
            id: "c".to_owned(),
            signal,
            to,
        })
    }

    /// Waits for the end of a process that `exec` has started.
    fn process_exit(&mut self) -> (u32, u8) {
        match self.event() {
            Event::ProcessExited {
                process, status, ..
            } => (process, status),
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, port: u32) -> String {
        let mut text = String::new();
        let stream = self.streams.get_mut(&port).unwrap();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn exit(&mut self) -> u8 {
        match self.event() {
            Event::Exited { status, .. } => status,
            other => panic!("{other:?}"),
        }
    }

    fn hang_up(self) {
        drop(self.control);
        self.server.join().unwrap().unwrap();
    }
}

#[test]
fn a_signal_reaches_the_workload_and_is_its_status() {
    let mut host = Host::new();
    host.run("exec sleep 1000");
    let signal = |id: &str, signal| Request::Signal {
        id: id.to_owned(),
        signal,
        to: Target::First,
    };
    host.ask(&signal("c", 0x7fff)).unwrap_err();
    host.ask(&signal("x", libc::SIGTERM)).unwrap_err();
    host.ask(&signal("c", libc::SIGTERM)).unwrap();
    assert_eq!(host.exit(), 128 + libc::SIGTERM as u8);
    host.ask(&signal("c", libc::SIGTERM)).unwrap_err();
    host.hang_up();
}

#[test]
fn containers_are_told_apart() {
    let mut host = Host::new();
    host.create("a", "cat; exit 1", 1).unwrap();
    host.create("b", "cat; exit 2", 4).unwrap();
    host.create("a", "exit 3", 7).unwrap_err();
    host.start("b").unwrap();
    host.start("a").unwrap();
    for (port, id, status) in [(4, "b", 2), (1, "a", 1)] {
        let mut stdin = host.streams.remove(&port).unwrap();
        stdin.write_all(id.as_bytes()).unwrap();
        stdin.shutdown(Shutdown::Write).unwrap();
        let event = host.event();
        assert!(
            matches!(&event, Event::Exited { id: i, status: s, .. } if (i.as_str(), *s) == (id, status)),
            "{event:?}"
        );
        assert_eq!(host.read(port + 1), id);
    }
    host.hang_up();
}

#[test]
fn a_container_that_can_t_be_made_ends_its_streams() {
    let mut host = Host::new();
    let failure = host.create_program("c", &["missing"], 1).unwrap_err();
    assert_eq!(failure.status, 127);
    assert_eq!(host.read(2), "");
    host.start("c").unwrap_err();
    // A port that the host doesn't expect.
    host.create("d", "exit 0", 10).unwrap_err();
    // Its id is free.
    host.create("c", "exit 4", 4).unwrap();
    host.start("c").unwrap();
    assert_eq!(host.exit(), 4);
    host.hang_up();
}

#[test]
fn a_host_that_hangs_up_is_noticed() {
    let host = Host::new();
    host.hang_up();
}

#[test]
fn a_host_that_hangs_up_within_a_request_is_noticed() {
    let mut host = Host::new();
    host.control.write_all(&[5, 0, 0, 0, b'{']).unwrap();
    host.hang_up();
}

#[test]
fn nonsense_from_the_host_is_an_error() {
    let mut host = Host::new();
    host.control.write_all(&[2, 0, 0, 0, b'{', b'}']).unwrap();
    let error = host.server.join().unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Receive(_)), "{error}");
}

#[test]
fn what_a_container_has_and_uses_is_told() {
    let mut host = Host::new();
    host.run("exec sleep 1000");
    let id = || "c".to_owned();
    let Answer::Processes(processes) = host.ask(&Request::Processes { id: id() }).unwrap() else {
        panic!()
    };
    assert_eq!(processes.len(), 1);
    let stats = host.ask(&Request::Stats { id: id() }).unwrap();
    assert_eq!(stats, Answer::Stats(Box::default()));
    let update = Request::Update {
        id: id(),
        resources: Box::default(),
    };
    assert_eq!(
        host.ask(&update).unwrap_err().message,
        "there are no limits"
    );
    host.signal(libc::SIGKILL, Target::All).unwrap();
    assert_eq!(host.exit(), 137);
    host.ask(&Request::Stats { id: id() }).unwrap_err();
    host.hang_up();
}

#[test]
fn a_network_may_come_before_its_container() {
    let mut host = Host::new();
    let set = |host: &mut Host| {
        let request = Request::Network {
            id: "c".to_owned(),
            network: Box::default(),
        };
        host.ask(&request).unwrap_err().message
    };
    assert_eq!(set(&mut host), "0 for c, which isn't there");
    host.run("true");
    // Its end is reported without a request.
    assert_eq!(host.exit(), 0);
    host.create("c", "true", 4).unwrap();
    assert_eq!(set(&mut host), "0 for c, which is there");
    host.hang_up();
}

#[test]
fn orphans_are_reaped() {
    // This process adopts what its children leave, as PID 1 does.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let mut host = Host::new();
    host.run("(sleep 0.2 & echo $!)");
    assert_eq!(host.exit(), 0);
    let orphan: i32 = host.read(2).trim().parse().unwrap();
    let until = std::time::Instant::now() + SOON;
    while kill(Pid::from_raw(orphan), None).is_ok() {
        assert!(std::time::Instant::now() < until, "still a zombie");
        thread::sleep(Duration::from_millis(10));
    }
    host.hang_up();
}
