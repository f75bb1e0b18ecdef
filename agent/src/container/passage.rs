//! The way from the filter of system calls to the exec.
//!
//! The filter is loaded before anybody in the container can see the process: who may trace it
//! could otherwise have it do what the filter forbids; and where an exec may gain privileges,
//! loading one takes `CAP_SYS_ADMIN`, which nobody in the container may get hold of. But a few
//! calls have to be made behind the filter, and a profile speaks of what the workload needs, not
//! the engine. So every filter lets these few through if they come with a key in the register of
//! the sixth argument, which none of them has. The key is 64 random bits, drawn anew for each
//! process, and gone with the engine's memory when that process execs. Who may trace the process
//! may learn it until then, so what it opens is no more than is made use of here: a plain copy of
//! the process, not one in new namespaces.
//!
//! Nothing here allocates memory, which might take a call that the filter forbids, and none of
//! the calls is one that programs make often: the kernel remembers which calls a filter always
//! allows, but not of those for which it looks at an argument.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use libc::{c_long, sock_filter};
use nix::errno::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::CapabilitySets;

use super::channel::{GO, READY};
use super::seccomp::{LetThrough, let_through};

/// As in `linux/capability.h`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// What a process makes its copy with: its parent is the copy's, and is told with the same signal.
const SISTER: libc::c_int = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID;

/// The calls that any process makes, each with what one of its arguments must be if it could do
/// more than is needed here: who may trace the process learns the key.
const CALLS: [(c_long, Option<(u32, u64)>); 7] = [
    (libc::SYS_capset, None),
    (libc::SYS_sendmmsg, None),
    (libc::SYS_recvmmsg, None),
    (libc::SYS_accept4, None),
    (libc::SYS_close_range, None),
    (libc::SYS_clone, Some((0, SISTER as u64))),
    (libc::SYS_setsid, None),
];

/// And with a terminal.
const TERMINAL_CALL: (c_long, Option<(u32, u64)>) = (libc::SYS_ioctl, Some((1, libc::TIOCSCTTY)));

/// The key to the filter of one process.
pub(super) struct Passage {
    key: u64,
    with_terminal: bool,
}

/// What was heard on a line.
pub(super) struct Heard {
    /// Whether it is the word to go on. If not, the other end was closed.
    pub(super) go: bool,
    /// A descriptor that came along.
    pub(super) fd: Option<OwnedFd>,
}

impl Passage {
    /// A new one, for a process that may have to take a terminal.
    ///
    /// # Errors
    ///
    /// If the kernel has no random numbers.
    pub(super) fn new(with_terminal: bool) -> io::Result<Self> {
        let mut key = [0; size_of::<u64>()];
        // One that waits for nothing: a guest that has just booted may not have much of it.
        let length = getrandom(&mut key, GetRandomFlags::INSECURE)?;
        if length < key.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Passage {
            key: u64::from_ne_bytes(key),
            with_terminal,
        })
    }

    /// The filter `program`, with a way through it for who has the key.
    pub(super) fn through(&self, program: Vec<sock_filter>) -> Vec<sock_filter> {
        let terminal = self.with_terminal.then_some(TERMINAL_CALL);
        let calls: Vec<LetThrough> = CALLS
            .into_iter()
            .chain(terminal)
            .filter_map(|(number, argument)| Some((u32::try_from(number).ok()?, argument)))
            .collect();
        let_through(&calls, self.key, program)
    }

    /// Makes a system call.
    ///
    /// # Safety
    ///
    /// As for the call itself.
    unsafe fn call(&self, number: c_long, arguments: [c_long; 5]) -> nix::Result<c_long> {
        let [a, b, c, d, e] = arguments;
        // SAFETY: the caller's promise; none of the calls has a sixth argument.
        Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, self.key) })
    }

    /// Gives this process these capabilities and no others.
    pub(super) fn set_capabilities(&self, sets: CapabilitySets) -> nix::Result<()> {
        let header = [CAPABILITY_VERSION_3, 0];
        let of = [
            sets.effective.bits(),
            sets.permitted.bits(),
            sets.inheritable.bits(),
        ];
        let data = [of.map(|set| set as u32), of.map(|set| (set >> 32) as u32)];
        let arguments = [header.as_ptr() as c_long, data.as_ptr() as c_long, 0, 0, 0];
        // SAFETY: both are as version 3 of the call has them, which only reads them.
        unsafe { self.call(libc::SYS_capset, arguments) }.map(drop)
    }

    /// Tells the engine that nothing is left to do but the exec.
    pub(super) fn say_ready(&self, line: impl AsFd) -> nix::Result<()> {
        let mut part = libc::iovec {
            iov_base: READY.as_ptr().cast_mut().cast(),
            iov_len: READY.len(),
        };
        let mut message = message(&mut part);
        let (line, flags) = (line.as_fd().as_raw_fd(), libc::MSG_NOSIGNAL);
        let arguments = [line.into(), &raw mut message as c_long, 1, flags.into(), 0];
        // SAFETY: one message of one part, both of which outlive the call.
        unsafe { self.call(libc::SYS_sendmmsg, arguments) }.map(drop)
    }

    /// Waits for the word to go on.
    pub(super) fn hear(&self, line: impl AsFd) -> nix::Result<Heard> {
        let mut word = [0u8; GO.len()];
        let mut part = libc::iovec {
            iov_base: word.as_mut_ptr().cast(),
            iov_len: word.len(),
        };
        let mut control = Control::default();
        let mut message = message(&mut part);
        message.msg_hdr.msg_control = (&raw mut control).cast();
        message.msg_hdr.msg_controllen = size_of::<Control>();
        let (line, flags) = (line.as_fd().as_raw_fd(), libc::MSG_CMSG_CLOEXEC);
        let arguments = [line.into(), &raw mut message as c_long, 1, flags.into(), 0];
        loop {
            // SAFETY: one message of one part, with room for what comes along; all of them
            // outlive the call.
            match unsafe { self.call(libc::SYS_recvmmsg, arguments) } {
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => break,
                other => {
                    other?;
                    break;
                }
            }
        }
        Ok(Heard {
            go: word == *GO,
            fd: control.fd(message.msg_hdr.msg_controllen),
        })
    }

    /// Takes the first one who comes to a socket.
    pub(super) fn accept(&self, socket: impl AsFd) -> nix::Result<OwnedFd> {
        let socket = socket.as_fd().as_raw_fd();
        let arguments = [socket.into(), 0, 0, libc::SOCK_CLOEXEC.into(), 0];
        loop {
            // SAFETY: the call is asked for no address.
            match unsafe { self.call(libc::SYS_accept4, arguments) } {
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                // SAFETY: the descriptor was just made, and nothing else knows of it.
                other => return other.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            }
        }
    }

    /// Closes a descriptor: the ordinary way may be barred.
    pub(super) fn close(&self, fd: impl Into<OwnedFd>) {
        let fd = fd.into().into_raw_fd();
        let arguments = [fd.into(), fd.into(), 0, 0, 0];
        // SAFETY: the descriptor was owned here, and its owner has given it up.
        let _ = unsafe { self.call(libc::SYS_close_range, arguments) };
    }

    /// Starts a session that this process leads.
    pub(super) fn start_session(&self) -> nix::Result<()> {
        // SAFETY: the call takes nothing.
        unsafe { self.call(libc::SYS_setsid, [0; 5]) }.map(drop)
    }

    /// Makes a terminal the controlling one of the session that this process leads.
    pub(super) fn take_terminal(&self, terminal: BorrowedFd<'_>) -> nix::Result<()> {
        let request = libc::TIOCSCTTY as c_long;
        let arguments = [terminal.as_raw_fd().into(), request, 0, 0, 0];
        // SAFETY: the request takes an integer.
        unsafe { self.call(TERMINAL_CALL.0, arguments) }.map(drop)
    }

    /// Makes a copy of this process that is a child of its parent, whose pid the kernel writes to
    /// `pid` before either goes on. True in the copy.
    ///
    /// # Safety
    ///
    /// As with [`sys::clone3`](super::sys::clone3); `pid` must be valid for a write.
    pub(super) unsafe fn clone_sister(&self, pid: *mut i32) -> nix::Result<bool> {
        let arguments = [SISTER.into(), 0, pid as c_long, 0, 0];
        // SAFETY: the caller's promise; without CLONE_VM and a stack the copy runs on a copy of
        // this one.
        unsafe { self.call(libc::SYS_clone, arguments) }.map(|pid| pid == 0)
    }
}

/// Room for one descriptor that comes along with a message.
#[repr(C, align(8))]
#[derive(Default)]
struct Control([u8; 24]);

impl Control {
    /// The descriptor in the first `length` bytes.
    fn fd(&self, length: usize) -> Option<OwnedFd> {
        let (header, rest) = self.0.get(..length)?.split_at_checked(16)?;
        let word = |bytes: &[u8]| Some(i32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?));
        let (level, kind) = (word(header.get(8..)?)?, word(header.get(12..)?)?);
        let is_descriptor = (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        let fd = word(rest).filter(|_| is_descriptor)?;
        // SAFETY: the kernel just made this descriptor, and nothing else knows of it.
        Some(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn message(part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: zeroes are a message of nothing.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::thread::capabilities;

    use super::super::channel::{Channel, Report};
    use super::*;

    #[test]
    fn words_and_descriptors_get_through() {
        let passage = Passage::new(true).unwrap();
        let (engine, init) = Channel::pair().unwrap();
        passage.say_ready(&init).unwrap();
        let heard = engine.wait_for_report(Duration::from_secs(5)).unwrap();
        assert_eq!(heard, Some(Report::Ready));
        engine.release().unwrap();
        let heard = passage.hear(&init).unwrap();
        assert!(heard.go && heard.fd.is_none());
        let (one, other) = Channel::pair().unwrap();
        engine.release_with(&one).unwrap();
        let heard = passage.hear(&init).unwrap();
        assert!(heard.go);
        drop(one);
        other.release().unwrap();
        assert!(passage.hear(heard.fd.as_ref().unwrap()).unwrap().go);
        passage.close(heard.fd.unwrap());
        assert!(other.release().is_err());
        drop(engine);
        assert!(!passage.hear(&init).unwrap().go);
    }

    #[test]
    fn capabilities_are_those_that_are_given() {
        let thread = std::thread::spawn(|| {
            let passage = Passage::new(false).unwrap();
            let held = capabilities(None).unwrap();
            let given = CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                ..held
            };
            passage.set_capabilities(given).unwrap();
            assert_eq!(capabilities(None).unwrap(), given);
        });
        thread.join().unwrap();
    }
}
