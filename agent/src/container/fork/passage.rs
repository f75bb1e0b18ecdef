//! The way from the seccomp filter to the exec.
//!
//! The filter is loaded before anybody in the container can see the process: whoever may trace it
//! could otherwise make it do what the filter forbids; and where an exec may gain privileges,
//! loading a filter takes `CAP_SYS_ADMIN`, which nobody in the container may get hold of. But a few
//! calls have to be made under the filter, and a profile lists what the workload needs, not the
//! engine. So every filter lets these few through if they come with a key in the register of the
//! sixth argument, which none of them has. The key is 64 random bits, drawn anew for each process,
//! and gone with the engine's memory when that process execs. Until then whoever may trace the
//! process may learn the key, so it allows no more than is used here: a plain copy of the process,
//! not one in new namespaces.
//!
//! Nothing here allocates memory, which might take a call that the filter forbids, and none of the
//! calls is one that programs make often: the kernel remembers which calls a filter always allows,
//! but not those for which it looks at an argument.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use libc::c_long;
use nix::errno::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::CapabilitySets;

use super::channel::{GO, READY};

/// As in `linux/capability.h`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The flags for a process's copy: it has the same parent, which gets the same signal at its end.
const SISTER: libc::c_int = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID;

/// The calls that any process makes. Where a call could do more than is needed here, one argument
/// has a required value: whoever may trace the process learns the key.
const CALLS: [(c_long, Option<(u32, u64)>); 7] = [
    (libc::SYS_capset, None),
    (libc::SYS_sendmmsg, None),
    (libc::SYS_recvmmsg, None),
    (libc::SYS_accept4, None),
    (libc::SYS_close_range, None),
    (libc::SYS_clone, Some((0, SISTER as u64))),
    (libc::SYS_setsid, None),
];

/// The additional call with a terminal.
const TERMINAL_CALL: (c_long, Option<(u32, u64)>) = (libc::SYS_ioctl, Some((1, libc::TIOCSCTTY)));

/// The key to the filter of one process.
pub(crate) struct Passage {
    key: u64,
    with_terminal: bool,
}

/// What was received on a channel.
pub(crate) struct ReleaseMessage {
    /// Whether it is the release. If not, the other end was closed.
    pub(crate) go: bool,
    /// A descriptor that was attached to it.
    pub(crate) fd: Option<OwnedFd>,
}

impl Passage {
    /// Draws a key, for a process that may have to take a terminal.
    ///
    /// # Errors
    ///
    /// If the kernel has no random numbers.
    pub(crate) fn new(with_terminal: bool) -> io::Result<Self> {
        let mut key = [0; size_of::<u64>()];
        // Without waiting for entropy: a guest that has just booted may not have much of it.
        let length = getrandom(&mut key, GetRandomFlags::INSECURE)?;
        if length < key.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Passage {
            key: u64::from_ne_bytes(key),
            with_terminal,
        })
    }

    /// Returns the number that opens the way.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Returns the system calls that are made under the filter, each with the value that is
    /// required of one of its arguments.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (u32, Option<(u32, u64)>)> {
        let terminal = self.with_terminal.then_some(TERMINAL_CALL);
        let calls = CALLS.into_iter().chain(terminal);
        calls.filter_map(|(number, argument)| Some((u32::try_from(number).ok()?, argument)))
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
    pub(crate) fn set_capabilities(&self, sets: CapabilitySets) -> nix::Result<()> {
        let header = [CAPABILITY_VERSION_3, 0];
        let of = [
            sets.effective.bits(),
            sets.permitted.bits(),
            sets.inheritable.bits(),
        ];
        let data = [of.map(|set| set as u32), of.map(|set| (set >> 32) as u32)];
        let arguments = [header.as_ptr() as c_long, data.as_ptr() as c_long, 0, 0, 0];
        // SAFETY: both are laid out as in version 3 of the call, which only reads them.
        unsafe { self.call(libc::SYS_capset, arguments) }.map(drop)
    }

    /// Tells the engine that only the exec is left to do.
    pub(crate) fn say_ready(&self, line: impl AsFd) -> nix::Result<()> {
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

    /// Waits to be released.
    pub(crate) fn hear(&self, line: impl AsFd) -> nix::Result<ReleaseMessage> {
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
            // SAFETY: one message of one part, with room for a descriptor; all of them outlive the
            // call.
            match unsafe { self.call(libc::SYS_recvmmsg, arguments) } {
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => break,
                other => {
                    other?;
                    break;
                }
            }
        }
        Ok(ReleaseMessage {
            go: word == *GO,
            fd: control.fd(message.msg_hdr.msg_controllen),
        })
    }

    /// Accepts the first connection to a socket.
    pub(crate) fn accept(&self, socket: impl AsFd) -> nix::Result<OwnedFd> {
        let socket = socket.as_fd().as_raw_fd();
        let arguments = [socket.into(), 0, 0, libc::SOCK_CLOEXEC.into(), 0];
        loop {
            // SAFETY: the call is passed no address.
            match unsafe { self.call(libc::SYS_accept4, arguments) } {
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                // SAFETY: the descriptor was just made, and nothing else knows of it.
                other => return other.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            }
        }
    }

    /// Closes a descriptor: the filter may forbid the usual call.
    pub(crate) fn close(&self, fd: impl Into<OwnedFd>) {
        let fd = fd.into().into_raw_fd();
        let arguments = [fd.into(), fd.into(), 0, 0, 0];
        // SAFETY: the descriptor was owned here, and its owner has given it up.
        let _ = unsafe { self.call(libc::SYS_close_range, arguments) };
    }

    /// Starts a session that this process leads.
    pub(crate) fn start_session(&self) -> nix::Result<()> {
        // SAFETY: the call takes no arguments.
        unsafe { self.call(libc::SYS_setsid, [0; 5]) }.map(drop)
    }

    /// Makes a terminal the controlling one of this process's session.
    pub(crate) fn take_terminal(&self, terminal: BorrowedFd<'_>) -> nix::Result<()> {
        let request = libc::TIOCSCTTY as c_long;
        let arguments = [terminal.as_raw_fd().into(), request, 0, 0, 0];
        // SAFETY: the request takes an integer.
        unsafe { self.call(TERMINAL_CALL.0, arguments) }.map(drop)
    }

    /// Makes a copy of this process that is a child of its parent. The kernel writes the copy's pid
    /// to `pid` before either goes on. Returns true in the copy.
    ///
    /// # Safety
    ///
    /// As with [`sys::clone3`](super::sys::clone3); `pid` must be valid for a write.
    pub(crate) unsafe fn clone_sister(&self, pid: *mut i32) -> nix::Result<bool> {
        let arguments = [SISTER.into(), 0, pid as c_long, 0, 0];
        // SAFETY: the caller's promise; without CLONE_VM and a stack the child runs on a copy of
        // this stack.
        unsafe { self.call(libc::SYS_clone, arguments) }.map(|pid| pid == 0)
    }
}

/// Room for one descriptor that is attached to a message.
#[repr(C, align(8))]
#[derive(Default)]
struct Control([u8; 24]);

impl Control {
    /// Returns the descriptor in the first `length` bytes.
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
    // SAFETY: all zeroes is an empty message.
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
