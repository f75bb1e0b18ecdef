//! A guest whose containers are shells.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use nacre_agent::container::Stdio;
use nacre_agent::container::cgroups::{OomWatch, Stats};
use nacre_agent::network::Network;
use nacre_agent::protocol::{Correction, ProcessEntry};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, waitpid};
use oci_spec::runtime::{LinuxResources, Spec};

use super::super::*;
use crate::init::failure::{failure, refused};
use crate::init::guest::Started;
use crate::init::processes::describe;

static NOTICES: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_child(_: libc::c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: write is safe in a signal handler, and `one` has the length given.
    unsafe { libc::write(NOTICES.load(Ordering::Relaxed), one.as_ptr().cast(), 8) };
}

/// Stands in for a signalfd, which needs a process of one thread.
pub(super) fn watch_children() -> OwnedFd {
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

pub(super) struct Fake {
    ports: Mutex<HashMap<u32, OwnedFd>>,
}

/// A shell that stops before it runs its script.
pub(super) struct Shell(Pid);

impl Fake {
    /// Makes it with the connections that it gets to the host's ports.
    pub(super) fn new(ports: HashMap<u32, OwnedFd>) -> Self {
        Self {
            ports: Mutex::new(ports),
        }
    }
}

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

    fn kernel_log(&self) -> Result<String, Failure> {
        Ok("logged\n".to_owned())
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
        Ok(describe(&[self.0.as_raw()]))
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
