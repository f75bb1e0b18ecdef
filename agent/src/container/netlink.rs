//! Network interfaces, by the kernel's own protocol
//! ([rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// How long the kernel may take to answer, in seconds.
const BOUND: i64 = 10;

/// The largest datagram that the kernel sends (`NLMSG_GOODSIZE` is less).
const MAX_DATAGRAM: usize = 64 << 10;

/// `struct nlmsghdr`, `ifinfomsg` and `ifaddrmsg` have these sizes.
const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    /// The one that it has itself.
    local: Vec<u8>,
    /// The one at the other end or, of most, the same.
    peer: Vec<u8>,
}

/// A line to the kernel about the interfaces of one network namespace.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// One about the namespace that this thread is in now.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(BOUND))?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// The index of an interface.
    pub(super) fn link(&mut self, name: &str) -> io::Result<u32> {
        let mut message = link_message(0, 0, 0);
        attribute(&mut message, libc::IFLA_IFNAME, &name_bytes(name));
        let answers = self.ask(libc::RTM_GETLINK, 0, &message)?;
        let answer = answers.first().ok_or(Errno::ENODEV)?;
        // Behind the family and the type.
        let index = answer.get(4..).and_then(|rest| rest.first_chunk());
        Ok(u32::from_ne_bytes(*index.ok_or(Errno::EPROTO)?))
    }

    /// The addresses of an interface that somebody gave it for good and that mean something
    /// beyond its link: the others are made by the kernel or a daemon, for where it is.
    pub(super) fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let dump = libc::NLM_F_DUMP as u16;
        let answers = self.ask(libc::RTM_GETADDR, dump, &[0; ADDRESS])?;
        let mut addresses = Vec::new();
        for answer in answers {
            let Some(([family, prefix, flags, scope, index_bytes @ ..], attributes)) =
                answer.split_first_chunk::<ADDRESS>()
            else {
                return Err(Errno::EPROTO.into());
            };
            let find = |kind| attributes_of(attributes).find(|(k, _)| *k == kind);
            let flags = find(libc::IFA_FLAGS)
                .and_then(|(_, value)| Some(u32::from_ne_bytes(*value.first_chunk()?)))
                .unwrap_or(u32::from(*flags));
            let is_global = *scope == libc::RT_SCOPE_UNIVERSE;
            let is_permanent = flags & libc::IFA_F_PERMANENT != 0;
            if u32::from_ne_bytes(*index_bytes) != index || !is_global || !is_permanent {
                continue;
            }
            let Some((_, peer)) = find(libc::IFA_ADDRESS) else {
                continue;
            };
            let local = find(libc::IFA_LOCAL).map_or(peer, |(_, local)| local);
            addresses.push(Address {
                family: *family,
                prefix: *prefix,
                local: local.to_vec(),
                peer: peer.to_vec(),
            });
        }
        Ok(addresses)
    }

    /// Gives an interface another address.
    pub(super) fn add_address(&mut self, index: u32, address: &Address) -> io::Result<()> {
        let mut message = vec![address.family, address.prefix, 0, libc::RT_SCOPE_UNIVERSE];
        message.extend(index.to_ne_bytes());
        attribute(&mut message, libc::IFA_LOCAL, &address.local);
        attribute(&mut message, libc::IFA_ADDRESS, &address.peer);
        let new = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        self.ask(libc::RTM_NEWADDR, new, &message).map(drop)
    }

    /// Sets an interface up.
    pub(super) fn set_up(&mut self, index: u32) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        let message = link_message(index, up, up);
        self.ask(libc::RTM_NEWLINK, 0, &message).map(drop)
    }

    /// Moves an interface to a network namespace, with a name there. It goes down by that, and
    /// loses its addresses.
    pub(super) fn move_to(
        &mut self,
        index: u32,
        namespace: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<()> {
        let mut message = link_message(index, 0, 0);
        let fd = namespace.as_raw_fd().to_ne_bytes();
        attribute(&mut message, libc::IFLA_NET_NS_FD, &fd);
        attribute(&mut message, libc::IFLA_IFNAME, &name_bytes(name));
        self.ask(libc::RTM_NEWLINK, 0, &message).map(drop)
    }

    /// Sends a request, and returns the payloads of what is answered.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;

        let mut answers = Vec::new();
        let mut datagram = vec![0; MAX_DATAGRAM];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let mut rest = datagram.get(..length).ok_or(Errno::EPROTO)?;
            while !rest.is_empty() {
                let (kind, payload, after) = split(rest).ok_or(Errno::EPROTO)?;
                rest = after;
                match i32::from(kind) {
                    // An error of 0 says that all is well.
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        let code = payload.first_chunk().map_or(0, |c| i32::from_ne_bytes(*c));
                        return match code {
                            0 => Ok(answers),
                            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                        };
                    }
                    _ => answers.push(payload.to_vec()),
                }
            }
        }
    }
}

/// The first message's type and payload, and what comes after it.
fn split(messages: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*messages.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*messages.get(4..)?.first_chunk()?);
    let payload = messages.get(HEADER..length)?;
    let next = length.next_multiple_of(4).min(messages.len());
    Some((kind, payload, messages.get(next..)?))
}

fn attributes_of(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// A `struct ifinfomsg`.
fn link_message(index: u32, flags: u32, changed: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(LINK);
    for word in [0, index, flags, changed] {
        message.extend(word.to_ne_bytes());
    }
    message
}

fn name_bytes(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_what_is_not_there_is_not() {
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(netlink.link("lo").unwrap(), 1);
        let error = netlink.link("nosuch0").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        // 127.0.0.1 is of the host only.
        assert_eq!(netlink.addresses(1).unwrap(), []);
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        assert_eq!(split(&[]), None);
        assert_eq!(split(&[200, 0, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(split(&[3, 0, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(attributes_of(&[8, 0, 1, 0, 5]).next(), None);
        assert_eq!(attributes_of(&[0, 0, 1, 0]).next(), None);
        let found: Vec<_> = attributes_of(&[5, 0, 1, 0, 7, 0, 0, 0, 4, 0, 2, 0]).collect();
        assert_eq!(found, [(1, &[7][..]), (2, &[])]);
    }
}
