//! Talks to the kernel over netlink
//! ([rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html)).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::{HEADER, split};

/// How long the kernel may take to answer, in seconds.
const BOUND: i64 = 10;

/// The largest datagram that the kernel sends (`NLMSG_GOODSIZE` is less).
const MAX_DATAGRAM: usize = 64 << 10;

/// The most answers to one request: whoever made the namespace may have filled it.
const MAX_ANSWERS: usize = 16 << 10;

/// How often a list is requested again if it changed while it was read.
const DUMP_ATTEMPTS: usize = 8;

/// A netlink socket for the interfaces of one network namespace.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket for the namespace that this thread is in.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn open() -> io::Result<Self> {
        let socket = open_socket(SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(BOUND))?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Opens a socket for another namespace, which this thread enters for a moment.
    ///
    /// # Errors
    ///
    /// The kernel's error; among others, EPERM if the caller may not enter it.
    pub fn open_in(namespace: impl AsFd) -> io::Result<Self> {
        let own = File::open("/proc/thread-self/ns/net")?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let netlink = Netlink::open();
        // Returning to the own namespace needs only what leaving it needed.
        setns(&own, CloneFlags::CLONE_NEWNET)?;
        netlink
    }

    /// Sends a request that the kernel is to carry out.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn tell(&mut self, kind: u16, flags: i32, payload: &[u8]) -> io::Result<()> {
        self.ask(kind, flags, payload).map(drop)
    }

    /// Lists all there is of a kind.
    ///
    /// # Errors
    ///
    /// The kernel's error; EBUSY if the list keeps changing, E2BIG if it is too long.
    pub fn list(&mut self, kind: u16, payload: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.ask(kind, libc::NLM_F_DUMP, payload) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                answer => return answer,
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Sends a request, and returns the payloads of the answers. EINTR for a list that changed in
    /// the meantime.
    pub(super) fn ask(
        &mut self,
        kind: u16,
        flags: i32,
        payload: &[u8],
    ) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(payload);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;

        let mut answers = Vec::new();
        let mut changed = false;
        let mut datagram = vec![0; MAX_DATAGRAM];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let mut rest = datagram.get(..length).ok_or(Errno::EPROTO)?;
            while !rest.is_empty() {
                let (received, after) = split(rest).ok_or(Errno::EPROTO)?;
                rest = after;
                // An answer to a request that was given up.
                if received.sequence != self.sequence {
                    continue;
                }
                let payload = received.payload;
                changed |= i32::from(received.flags) & libc::NLM_F_DUMP_INTR != 0;
                match i32::from(received.kind) {
                    // An error of 0 means success.
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        let code = payload.first_chunk().map_or(0, |c| i32::from_ne_bytes(*c));
                        return match code {
                            0 if changed => Err(Errno::EINTR.into()),
                            0 if answers.len() > MAX_ANSWERS => Err(Errno::E2BIG.into()),
                            0 => Ok(answers),
                            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                        };
                    }
                    _ if answers.len() > MAX_ANSWERS => {}
                    _ => answers.push(payload.to_vec()),
                }
            }
        }
    }
}

/// Reports that something in a namespace's network may have changed; not what, since the kernel
/// drops what isn't read soon enough.
pub struct Watch(OwnedFd);

impl Watch {
    /// Watches the namespace that this thread is in: its interfaces, addresses, neighbours and
    /// routes.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn open() -> io::Result<Self> {
        let socket = open_socket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
        let groups = [
            libc::RTMGRP_LINK,
            libc::RTMGRP_NEIGH,
            libc::RTMGRP_IPV4_IFADDR,
            libc::RTMGRP_IPV4_ROUTE,
            libc::RTMGRP_IPV6_IFADDR,
            libc::RTMGRP_IPV6_ROUTE,
        ];
        let groups = groups.into_iter().fold(0, |all, group| all | group as u32);
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Watch(socket))
    }

    /// Returns whether anything was reported since the last call.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn changed(&self) -> io::Result<bool> {
        let mut changed = false;
        // Reading one byte of a message discards all of it. No more than its buffer may hold, as
        // new ones could always arrive.
        for _ in 0..MAX_ANSWERS {
            match recv(self.0.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => break,
                // It lost some.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => changed = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(changed)
    }
}

/// Readable when something was reported.
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open_socket(flags: SockFlag) -> nix::Result<OwnedFd> {
    let netlink = AddressFamily::Netlink;
    socket(netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_an_earlier_request_is_no_answer() {
        let mut netlink = Netlink::open().unwrap();
        // A request of an unknown kind, whose answer nobody reads.
        let mut earlier = vec![0; HEADER];
        let kind: u16 = 0xfff;
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        earlier[..4].copy_from_slice(&(HEADER as u32).to_ne_bytes());
        earlier[4..6].copy_from_slice(&kind.to_ne_bytes());
        earlier[6..8].copy_from_slice(&flags.to_ne_bytes());
        earlier[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        send(netlink.socket.as_raw_fd(), &earlier, MsgFlags::empty()).unwrap();
        let links = netlink.list(libc::RTM_GETLINK, &[0; 16]).unwrap();
        assert!(!links.is_empty());
    }
}
