//! The process that stands for a container.
//!
//! Whoever has such a pid uses it to reach the container: enters its namespaces, looks at its root.
//! So a stand-in is in namespaces that show the container and nothing else ([`view`]), and has
//! nothing of the host that could be taken from it: no right, no file, no word of its caller's
//! environment ([`confine`]). The container's stand-in is alone in a pid namespace, as its first
//! process; the sandbox process, which has much of the host, isn't in that namespace.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nacre_agent::container::{
    Identity, in_user_namespace,
    outside::{self, Cloned},
};
use nix::{
    errno::Errno,
    poll::PollFlags,
    sched::{CloneFlags, setns, unshare},
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::{Pid, sethostname, setsid},
};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};
use rustix::process::{Signal, pidfd_send_signal};

use crate::isolation::{
    signals::Signals,
    wait::{Interest, wait},
};

use super::{
    confine,
    error::{StandInError, failed},
    line::{self, Line},
    view,
    words::Words,
};

/// nix lacks this flag.
const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// The exit status if nobody gives another: as if the stand-in had been killed.
const KILLED: u8 = 128 + libc::SIGKILL as u8;

/// What the stand-in stands for.
#[derive(Debug)]
pub(in crate::isolation::vm) struct Role {
    id: String,
    hostname: Option<String>,
    domain_name: Option<String>,
    linux: Linux,
    has_user: bool,
    /// Whether its network namespace is made with it, so that its user namespace owns that.
    makes_network: bool,
    has_time: bool,
    /// Where the container has a proc file system.
    proc: Vec<PathBuf>,
}

impl Role {
    /// Whether its network namespace is made with it. Otherwise it is in that of the process that
    /// makes it.
    pub(in crate::isolation::vm) fn makes_network(&self) -> bool {
        self.makes_network
    }

    /// Takes it from a container's configuration.
    pub(in crate::isolation::vm) fn new(id: &str, spec: &Spec, has_new_network: bool) -> Self {
        let linux = spec.linux().clone().unwrap_or_default();
        let namespaces = linux.namespaces().clone().unwrap_or_default();
        let has = |kind| namespaces.iter().any(|n| n.typ() == kind);
        Self {
            id: id.to_owned(),
            hostname: spec.hostname().clone(),
            domain_name: spec.domainname().clone(),
            has_user: has(LinuxNamespaceType::User),
            makes_network: has_new_network && has(LinuxNamespaceType::User),
            has_time: has(LinuxNamespaceType::Time),
            linux,
            proc: view::proc_mounts(spec),
        }
    }
}

/// The container's stand-in, as the sandbox process has it.
#[derive(Debug)]
pub(in crate::isolation::vm) struct StandIn {
    pub(in crate::isolation::vm) identity: Identity,
    line: Line,
    pidfd: OwnedFd,
}

impl StandIn {
    /// Makes the stand-in as this process's sister: this process's parent reaps both. It has the
    /// container's namespaces, and the rest of the host until it is confined. This process must
    /// have a single thread.
    pub(in crate::isolation::vm) fn make(role: &Role, words: Words) -> Result<Self, StandInError> {
        let (line, theirs) = Line::pair().map_err(failed("make a socket"))?;
        let mut flags = libc::CLONE_PARENT
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        if role.has_user {
            flags |= libc::CLONE_NEWUSER;
        }
        if role.makes_network {
            flags |= libc::CLONE_NEWNET;
        }
        // SAFETY: the caller's promise. The child doesn't return.
        let cloned = unsafe { outside::clone_process(flags as u32 as u64) };
        match cloned.map_err(failed("make a process"))? {
            Cloned::Child => {
                // Nothing of the sandbox process may run in this one: no frame, no exit handler.
                let _never_unwind = ExitOnDrop;
                drop(line);
                stand(role, words, theirs)
            }
            Cloned::Parent { pid, pidfd } => {
                drop(theirs);
                if role.has_user {
                    outside::map_ids(pid, &role.linux)?;
                }
                line.tell(line::GO_ON, None)?;
                let identity = Identity::of(pid).map_err(failed("look"))?;
                Ok(Self {
                    identity,
                    line,
                    pidfd,
                })
            }
        }
    }

    /// Confines it to the container; `view` is the container's root with everything mounted there.
    /// The stand-in must be in the container's cgroup.
    pub(in crate::isolation::vm) fn confine(&self, view: OwnedFd) -> Result<(), StandInError> {
        self.line.tell(line::VIEW, Some(view.as_fd()))
    }

    /// Returns its pidfd, for its namespaces.
    pub(in crate::isolation::vm) fn process(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Tells it the container's exit status, with which it ends. Somebody may have stopped it.
    pub(in crate::isolation::vm) fn end(self, status: u8) {
        self.line.tell_status(status);
        let _ = pidfd_send_signal(&self.pidfd, Signal::CONT);
        std::mem::forget(self);
    }

    /// Returns the line to it, over which it reports signals once it is confined.
    pub(in crate::isolation::vm) fn line(&self) -> &Line {
        &self.line
    }
}

/// Runs as the stand-in.
fn stand(role: &Role, words: Words, theirs: UnixStream) -> ! {
    let entered = let_go(theirs).and_then(|line| {
        let entered = role.enter(&line, words);
        entered.map_err(|(step, error)| {
            let mut words = vec![line::FAILED];
            words.extend(format!("{step}: {error}").into_bytes());
            let _ = (&line).write_all(&words);
            error
        })?;
        Ok(line)
    });
    match entered {
        Ok(line) => serve(&line),
        Err(_) => exit(1),
    }
}

/// Closes everything of the sandbox process's but the line.
fn let_go(theirs: UnixStream) -> io::Result<UnixStream> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    // SAFETY: what else is open belongs to values of the sandbox process, which this process
    // neither uses nor drops; nor does it these two.
    let line = unsafe { confine::keep_nothing_but(theirs.as_raw_fd(), &null) };
    std::mem::forget((theirs, null));
    line
}

type Step = (&'static str, io::Error);

fn step<T, E: Into<io::Error>>(what: &'static str, result: Result<T, E>) -> Result<T, Step> {
    result.map_err(|error| (what, error.into()))
}

impl Role {
    /// Enters the container, as far as there is one on the host, and then gives up everything else.
    fn enter(&self, line: &UnixStream, words: Words) -> Result<(), Step> {
        step("begin a session", setsid())?;
        step("hide itself", confine::hide())?;
        let wait = |word| match line::receive(line) {
            Ok((found, file)) if found == word => Ok(file),
            // The sandbox process has gone.
            _ => exit(KILLED),
        };
        wait(line::GO_ON)?;
        if self.has_time {
            // While this process's files in /proc still belong to its user.
            self.enter_time()?;
        }
        if self.has_user {
            step("become the container's root", confine::become_root())?;
        }
        if let Some(name) = &self.hostname {
            step("set the hostname", sethostname(name))?;
        }
        if let Some(name) = &self.domain_name {
            step("set the domain name", outside::set_domain_name(name))?;
        }
        step("answer", (&*line).write_all(&[line::DONE]))?;

        let in_user = self.has_user || in_user_namespace();
        let view = wait(line::VIEW)?;
        let view = step(
            "get the container's root",
            view.ok_or(io::ErrorKind::InvalidData),
        )?;
        let own_cgroup = unshare(CloneFlags::CLONE_NEWCGROUP);
        step("make a cgroup namespace", own_cgroup)?;
        step(
            "enter the container's root",
            view::enter(&view, &self.proc, in_user),
        )?;
        drop(view);
        step("become root", confine::become_root())?;
        // SAFETY: these words are a copy of the sandbox process's, and this process has a single
        // thread.
        unsafe {
            words.replace(&format!("nacre: stands for {}", self.id));
        }
        step("give up its rights", confine::drop_rights())?;
        step("answer", (&*line).write_all(&[line::DONE]))
    }

    fn enter_time(&self) -> Result<(), Step> {
        step("make a time namespace", unshare(NEW_TIME))?;
        let offsets = outside::time_offsets(&self.linux);
        if !offsets.is_empty() {
            let written = fs::write("/proc/self/timens_offsets", offsets);
            step("set the clocks", written)?;
        }
        let path = Path::new("/proc/self/ns/time_for_children");
        let time = step("open its time namespace", File::open(path))?;
        step("enter its time namespace", setns(time, NEW_TIME))
    }
}

/// What the stand-in waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Line,
    Signals,
}

/// Passes signals on, reaps orphans in its pid namespace, and ends with the container's status once
/// the sandbox process has ended.
fn serve(line: &UnixStream) -> ! {
    // All signals are blocked already.
    let Ok(signals) = Signals::block() else {
        exit(1)
    };
    let mut status = KILLED;
    let mut unsent = None;
    loop {
        let mut of_line = PollFlags::POLLIN;
        let mut of_signals = PollFlags::POLLIN;
        if unsent.is_some() {
            // Other signals wait in the kernel, which keeps one of each.
            of_line |= PollFlags::POLLOUT;
            of_signals = PollFlags::empty();
        }
        let interests = vec![
            Interest::new(Awaited::Line, line.as_fd(), of_line),
            Interest::new(Awaited::Signals, signals.as_fd(), of_signals),
        ];
        let Ok(events) = wait(interests, None) else {
            exit(1)
        };
        let said = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        if events.flags(Awaited::Line).intersects(said) {
            let mut words = [0; 2];
            match (&*line).read_exact(&mut words) {
                Ok(()) if words[0] == line::STATUS => status = words[1],
                Ok(()) => {}
                // The sandbox process has ended.
                Err(_) => exit(status),
            }
        }
        unsent = unsent.and_then(|number| send(line, number));
        while unsent.is_none()
            && let Ok(Some(signal)) = signals.next()
        {
            unsent = match signal.number {
                libc::SIGCHLD => {
                    reap();
                    None
                }
                number => send(line, number as u8),
            };
        }
    }
}

/// Sends a signal's number; returns it if there is no room for it yet.
fn send(line: &UnixStream, number: u8) -> Option<u8> {
    let bytes = [number];
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and the length are those of an array.
    let sent = unsafe {
        let bytes = bytes.as_ptr().cast();
        libc::send(line.as_raw_fd(), bytes, 1, flags)
    };
    // Whether the sandbox process has gone is noticed elsewhere.
    (sent == -1 && Errno::last() == Errno::EAGAIN).then_some(number)
}

fn reap() {
    let any = Pid::from_raw(-1);
    while let Ok(status) = waitpid(any, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Ends the process if a panic unwinds through it.
struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        exit(1)
    }
}

fn exit(status: u8) -> ! {
    // SAFETY: _exit ends the process without running any of its code.
    unsafe { libc::_exit(status.into()) }
}
