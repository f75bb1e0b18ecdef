//! Tests the server against a host at the other end of a socketpair, with shells as containers.

mod processes;

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nacre_agent::container::Stdio;
use nacre_agent::container::cgroups::{OomWatch, Stats};
use nacre_agent::network::Network;
use nacre_agent::protocol::{Correction, ProcessEntry, Target, WindowSize};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, waitpid};
use oci_spec::runtime::{LinuxResources, Process as ProcessSpec, Spec};

use super::super::failure::{failure, refused};
use super::super::guest::Started;
use super::*;

const SOON: Duration = Duration::from_secs(60);

/// A server reaps every child of the process, so only one can run at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

static NOTICES: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_child(_: libc::c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: write is safe in a signal handler, and `one` has the length given.
    unsafe { libc::write(NOTICES.load(Ordering::Relaxed), one.as_ptr().cast(), 8) };
}

/// Stands in for a signalfd, which needs a process of one thread.
fn watch_children() -> OwnedFd {
    let notices = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
    NOTICES.store(notices.as_fd().as_raw_fd(), Ordering::Relaxed);
    let action = SigAction::new(
        SigHandler::Handler(on_child),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler only writes to a descriptor.
    unsafe { sigaction(Signal::SIGCHLD, &action) }.unwrap();
    notices.into()
}

struct Fake {
    ports: Mutex<HashMap<u32, OwnedFd>>,
}

/// A shell that stops before it runs its script.
struct Shell(Pid);

impl Guest for Fake {
    type Workload = Shell;

    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        let connection = self.ports.lock().unwrap().remove(&port);
        connection.ok_or(ErrorKind::ConnectionReset.into())
    }

    fn create(&self, create: &Create, stdio: Stdio) -> Result<Shell, Failure> {
        let args = create
            .spec
            .process()
            .as_ref()
            .unwrap()
            .args()
            .clone()
            .unwrap();
        let child = Command::new("sh")
            .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
            .args(&args)
            .stdin(stdio.stdin)
            .stdout(stdio.stdout)
            .stderr(stdio.stderr)
            .process_group(0)
            .spawn()
            .map_err(|error| failure(&error))?;
        let pid = Pid::from_raw(child.id() as i32);
        if args[0] == "missing" {
            kill(pid, Signal::SIGKILL).unwrap();
            return Err(Failure {
                message: "no such program".into(),
                status: 127,
            });
        }
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        Ok(Shell(pid))
    }

    fn written(&self) -> Result<(u64, u64), Failure> {
        Ok((4096, 1 << 20))
    }

    fn set_network(&self, id: &str, pid: Option<Pid>, network: &Network) -> Result<(), Failure> {
        let whether = if pid.is_some() { "is" } else { "isn't" };
        let nics = network.nics.len();
        Err(refused(format!("{nics} for {id}, which {whether} there")))
    }

    fn forget_files(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn clock(&self, correction: Option<Correction>) -> Result<i64, Failure> {
        match correction {
            Some(Correction::Step(by)) => Ok(by),
            Some(Correction::Slew(_)) => Err(refused("it stands still".to_owned())),
            None => Ok(0),
        }
    }
}

impl Workload for Shell {
    fn pid(&self) -> Pid {
        self.0
    }

    fn start(&mut self) -> Result<(), Failure> {
        kill(self.0, Signal::SIGCONT).map_err(|error| failure(&error))
    }

    fn signal(&self, signal: i32) -> Result<(), Failure> {
        let signal = Signal::try_from(signal).map_err(|error| failure(&error))?;
        kill(self.0, signal).map_err(|error| failure(&error))
    }

    fn oom_killed(&self) -> bool {
        false
    }

    fn take_terminal(&mut self) -> Option<OwnedFd> {
        None
    }

    /// Starts a process whose terminal, if it has one, is one of the host's.
    fn exec(
        &self,
        _: &Spec,
        _: Option<&str>,
        exec: &Exec,
        stdio: Stdio,
    ) -> Result<Started, Failure> {
        let args = exec.process.args().clone().unwrap();
        let mut command = Command::new(&args[0]);
        command.args(&args[1..]);
        let mut master = None;
        if exec.process.terminal() == Some(true) {
            let pty = nix::pty::openpty(None, None).unwrap();
            let flags = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
            fcntl(&pty.master, flags).unwrap();
            let slave = || pty.slave.try_clone().unwrap();
            command.stdin(slave()).stdout(slave()).stderr(slave());
            // SAFETY: these calls may be made between fork and exec.
            unsafe {
                command.pre_exec(|| {
                    nix::unistd::setsid()?;
                    Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                    Ok(())
                });
            }
            master = Some(pty.master);
        } else {
            command
                .stdin(stdio.stdin)
                .stdout(stdio.stdout)
                .stderr(stdio.stderr);
        }
        let child = command.spawn().map_err(|error| Failure {
            message: error.to_string(),
            status: 127,
        })?;
        Ok(Started {
            pid: Pid::from_raw(child.id() as i32),
            terminal: master,
        })
    }

    fn signal_all(&self, signal: i32) -> Result<(), Failure> {
        self.signal(signal)
    }

    fn processes(&self) -> Result<Vec<ProcessEntry>, Failure> {
        Ok(super::super::processes::describe(&[self.0.as_raw()]))
    }

    fn stats(&self) -> Result<Stats, Failure> {
        Ok(Stats::default())
    }

    fn update(&self, _: &LinuxResources) -> Result<(), Failure> {
        Err(refused("there are no limits".to_owned()))
    }

    fn oom_watch(&self) -> Option<OomWatch> {
        None
    }

    /// Leaves everything that remains, as if killing it had failed.
    fn destroy(self) -> Result<(), Failure> {
        Ok(())
    }
}

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
        let fake = Fake {
            ports: Mutex::new(ports),
        };
        let children = watch_children();
        let server = thread::spawn(move || serve(fake, guest.into(), children));
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
fn output_and_status_arrive() {
    let mut host = Host::new();
    host.run("echo out; echo err >&2; exit 7");
    assert_eq!(host.exit(), 7);
    assert_eq!(host.read(2), "out\n");
    assert_eq!(host.read(3), "err\n");
    host.hang_up();
}

#[test]
fn output_and_errors_that_are_one_stream_keep_their_order() {
    let mut host = Host::new();
    let streams = Streams {
        stdout: Some(1),
        stderr: Some(1),
        ..Streams::default()
    };
    let script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done";
    host.create_with("c", &["sh", "-c", script], streams)
        .unwrap();
    host.start("c").unwrap();
    assert_eq!(host.exit(), 0);
    let lines = host.read(1);
    assert_eq!(lines, "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n");
    host.hang_up();
}

#[test]
fn nothing_runs_before_the_start() {
    let mut host = Host::new();
    host.create("c", "echo out", 1).unwrap();
    let stdout = host.streams[&2].try_clone().unwrap();
    let timeout = Duration::from_millis(100);
    stdout.set_read_timeout(Some(timeout)).unwrap();
    let error = (&stdout).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    stdout.set_read_timeout(Some(SOON)).unwrap();
    host.start("c").unwrap();
    assert_eq!(host.exit(), 0);
    assert_eq!(host.read(2), "out\n");
    host.hang_up();
}

#[test]
fn input_and_its_end_reach_the_workload() {
    let mut host = Host::new();
    host.run("wc -c");
    let mut stdin = host.streams.remove(&1).unwrap();
    stdin.write_all(&vec![b'x'; 3_000_000]).unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    assert_eq!(host.exit(), 0);
    assert_eq!(host.read(2).trim(), "3000000");
    host.hang_up();
}

#[test]
fn the_exit_waits_for_the_output() {
    let mut host = Host::new();
    host.run("head -c 1000000 /dev/zero");
    host.control
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let early = protocol::receive::<Event>(&mut host.control);
    assert!(early.is_err(), "{early:?} before the output was read");
    host.control.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(host.read(2).len(), 1_000_000);
    assert_eq!(host.exit(), 0);
    host.hang_up();
}

#[test]
fn a_process_left_behind_does_not_hold_the_output_open() {
    let mut host = Host::new();
    host.run("sleep 1000 & echo $!; exit 3");
    assert_eq!(host.exit(), 3);
    let left: i32 = host.read(2).trim().parse().unwrap();
    kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    host.hang_up();
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
fn a_host_that_closes_a_stream_early_costs_only_that() {
    let mut host = Host::new();
    host.create("c", "yes; echo $? >&2", 1).unwrap();
    host.streams.remove(&2);
    host.start("c").unwrap();
    assert_eq!(host.exit(), 0);
    // `yes` dies of SIGPIPE, or of the error where that is ignored.
    let said = host.read(3);
    assert!(said.contains("141") || said.contains('1'), "{said}");
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
