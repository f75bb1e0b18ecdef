//! Tells the kernel what a network namespace is to have.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::message::Message;
use super::model::{Address, Hop, Neighbour, Route};
use super::netlink::Netlink;
use super::read::NEXT_HOP;
use super::read::uapi::*;

const NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// Replaces what exists already.
const SET: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// From `linux/if_link.h` and `if_addr.h`.
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFA_F_NODAD: u32 = 0x02;

impl Netlink {
    /// Moves an interface to a network namespace, with a name there. That sets it down and removes
    /// its addresses.
    pub(crate) fn move_to(
        &mut self,
        index: u32,
        namespace: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<()> {
        let mut message = link(index, 0, 0);
        let fd = namespace.as_raw_fd().to_ne_bytes();
        message.put(libc::IFLA_NET_NS_FD, &fd);
        message.put_name(libc::IFLA_IFNAME, name);
        self.tell(libc::RTM_NEWLINK, 0, message.bytes())
    }

    /// Sets the MAC address of an interface that is down, and keeps it from making an address of
    /// its own when it goes up.
    pub(super) fn prepare(&mut self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        let mut message = link(index, 0, 0);
        message.put(libc::IFLA_ADDRESS, &mac);
        self.tell(libc::RTM_NEWLINK, 0, message.bytes())?;
        self.have_no_link_local_address(index)
    }

    /// Keeps an interface from making an address of its own when it goes up. Does nothing on a
    /// kernel without IPv6.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn have_no_link_local_address(&mut self, index: u32) -> io::Result<()> {
        let mut message = link(index, 0, 0);
        message.nest(IFLA_AF_SPEC, |families| {
            families.nest(libc::AF_INET6 as u16, |ipv6| {
                ipv6.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
        match self.tell(libc::RTM_NEWLINK, 0, message.bytes()) {
            Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
            other => other,
        }
    }

    /// Sets an interface's MTU, in bytes.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = link(index, 0, 0);
        message.put_u32(libc::IFLA_MTU, mtu);
        self.tell(libc::RTM_NEWLINK, 0, message.bytes())
    }

    /// Sets an interface up.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        self.tell(libc::RTM_NEWLINK, 0, link(index, up, up).bytes())
    }

    /// Sets whether an interface resolves its neighbours' MAC addresses.
    pub(super) fn set_arp(&mut self, index: u32, arp: bool) -> io::Result<()> {
        let no_arp = libc::IFF_NOARP as u32;
        let flags = if arp { 0 } else { no_arp };
        self.tell(libc::RTM_NEWLINK, 0, link(index, flags, no_arp).bytes())
    }

    /// Adds an address to an interface. An IPv6 address is usable at once: whoever gave it to the
    /// interface that this one stands for has checked that nobody else has it.
    pub(crate) fn add_address(&mut self, index: u32, address: &Address) -> io::Result<()> {
        let message = address_message(index, address);
        self.tell(libc::RTM_NEWADDR, NEW, message.bytes())
    }

    pub(super) fn remove_address(&mut self, index: u32, address: &Address) -> io::Result<()> {
        let message = address_message(index, address);
        gone(self.tell(libc::RTM_DELADDR, 0, message.bytes()))
    }

    pub(super) fn set_neighbour(&mut self, index: u32, neighbour: &Neighbour) -> io::Result<()> {
        let message = neighbour_message(index, neighbour);
        self.tell(libc::RTM_NEWNEIGH, SET, message.bytes())
    }

    pub(super) fn remove_neighbour(&mut self, index: u32, neighbour: &Neighbour) -> io::Result<()> {
        let message = neighbour_message(index, neighbour);
        gone(self.tell(libc::RTM_DELNEIGH, 0, message.bytes()))
    }

    /// Makes a route. `index` gives interfaces' numbers by their names.
    pub(super) fn set_route(
        &mut self,
        route: &Route,
        index: impl Fn(&str) -> Option<u32>,
    ) -> io::Result<()> {
        let message = route_message(route, index)?;
        self.tell(libc::RTM_NEWROUTE, SET, message.bytes())
    }

    pub(super) fn remove_route(
        &mut self,
        route: &Route,
        index: impl Fn(&str) -> Option<u32>,
    ) -> io::Result<()> {
        // Without its interface the route is gone.
        match route_message(route, index) {
            Ok(message) => gone(self.tell(libc::RTM_DELROUTE, 0, message.bytes())),
            Err(_) => Ok(()),
        }
    }
}

/// Ignores that something to be removed doesn't exist any more: the container or the kernel may
/// have removed it.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
        _ => removed,
    }
}

/// Builds a message with a `struct ifinfomsg`.
fn link(index: u32, flags: u32, changed: u32) -> Message {
    let words = [0, index, flags, changed].map(u32::to_ne_bytes);
    Message::new(&words.concat())
}

/// Builds a message with a `struct ifaddrmsg`.
fn address_message(index: u32, address: &Address) -> Message {
    let mut header = vec![family(address.local), address.prefix, 0, address.scope];
    header.extend(index.to_ne_bytes());
    let mut message = Message::new(&header);
    message.put(libc::IFA_LOCAL, &octets(address.local));
    let peer = address.peer.unwrap_or(address.local);
    message.put(libc::IFA_ADDRESS, &octets(peer));
    if let Some(broadcast) = address.broadcast {
        message.put(IFA_BROADCAST, &broadcast.octets());
    }
    if let Some(label) = &address.label {
        message.put_name(IFA_LABEL, label);
    }
    if address.metric != 0 {
        message.put_u32(IFA_RT_PRIORITY, address.metric);
    }
    let no_detection = if address.local.is_ipv6() {
        IFA_F_NODAD
    } else {
        0
    };
    message.put_u32(libc::IFA_FLAGS, address.flags | no_detection);
    message
}

/// Builds a message with a `struct ndmsg`.
fn neighbour_message(index: u32, neighbour: &Neighbour) -> Message {
    let mut header = vec![family(neighbour.address), 0, 0, 0];
    header.extend(index.to_ne_bytes());
    header.extend(libc::NUD_PERMANENT.to_ne_bytes());
    header.extend([neighbour.flags, 0]);
    let mut message = Message::new(&header);
    message.put(libc::NDA_DST, &octets(neighbour.address));
    message.put(libc::NDA_LLADDR, &neighbour.mac);
    message
}

/// Builds a message with a `struct rtmsg`. ENODEV if an interface isn't known.
fn route_message(route: &Route, index: impl Fn(&str) -> Option<u32>) -> io::Result<Message> {
    let index = |hop: &Hop| index(&hop.interface).ok_or(Errno::ENODEV);
    let flags = |hop: &Hop| if hop.on_link { RTNH_F_ONLINK } else { 0 };
    let mut header = vec![
        family(route.destination),
        route.prefix,
        0,
        route.tos,
        libc::RT_TABLE_MAIN,
        route.protocol,
        route.scope,
        route.kind,
    ];
    let of_the_only = match &route.hops[..] {
        [only] => flags(only),
        _ => 0,
    };
    header.extend(u32::from(of_the_only).to_ne_bytes());
    let mut message = Message::new(&header);
    if route.prefix > 0 {
        message.put(libc::RTA_DST, &octets(route.destination));
    }
    if let Some(source) = route.source {
        message.put(libc::RTA_PREFSRC, &octets(source));
    }
    message.put_u32(libc::RTA_PRIORITY, route.metric);
    if let Some(preference) = route.preference {
        message.put(RTA_PREF, &[preference]);
    }
    if !route.metrics.is_empty() {
        message.nest(libc::RTA_METRICS, |inner| {
            for (kind, value) in &route.metrics {
                inner.put_u32(*kind, *value);
            }
        });
    }
    match &route.hops[..] {
        [] => {}
        [only] => {
            message.put_u32(libc::RTA_OIF, index(only)?);
            put_gateway(&mut message, route, only);
        }
        several => {
            let mut hops = Vec::new();
            for hop in several {
                let mut attributes = Message::new(&[]);
                put_gateway(&mut attributes, route, hop);
                let length = NEXT_HOP + attributes.bytes().len();
                hops.extend((length as u16).to_ne_bytes());
                hops.extend([flags(hop), hop.weight]);
                hops.extend(index(hop)?.to_ne_bytes());
                hops.extend(attributes.bytes());
            }
            message.put(libc::RTA_MULTIPATH, &hops);
        }
    }
    Ok(message)
}

fn put_gateway(message: &mut Message, route: &Route, hop: &Hop) {
    match hop.gateway {
        None => {}
        Some(gateway) if gateway.is_ipv4() == route.destination.is_ipv4() => {
            message.put(libc::RTA_GATEWAY, &octets(gateway));
        }
        // An IPv4 route through an IPv6 router.
        Some(gateway) => {
            let family = u16::from(family(gateway)).to_ne_bytes();
            message.put(RTA_VIA, &[&family[..], &octets(gateway)].concat());
        }
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
