//! Reads what a network namespace has, as the kernel lists it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use super::message::{Message, attribute, number, text, u16_at, u32_at};
use super::model::{Address, Hop, Interface, Neighbour, Route};
use super::netlink::Netlink;

/// From `linux/if_link.h`, `if_addr.h`, `rtnetlink.h` and `neighbour.h`, of which the C library has
/// only a part.
pub(super) mod uapi {
    pub(in crate::network) const IFLA_MASTER: u16 = 10;
    pub(in crate::network) const IFLA_LINKINFO: u16 = 18;
    pub(in crate::network) const IFLA_INFO_KIND: u16 = 1;
    pub(in crate::network) const IFA_BROADCAST: u16 = 4;
    pub(in crate::network) const IFA_LABEL: u16 = 3;
    pub(in crate::network) const IFA_RT_PRIORITY: u16 = 9;
    pub(in crate::network) const IFA_PROTO: u16 = 11;
    pub(in crate::network) const IFAPROT_KERNEL_RA: u8 = 2;
    pub(in crate::network) const IFA_F_TEMPORARY: u32 = 0x01;
    pub(in crate::network) const IFA_F_DADFAILED: u32 = 0x08;
    pub(in crate::network) const IFA_F_HOMEADDRESS: u32 = 0x10;
    pub(in crate::network) const IFA_F_NOPREFIXROUTE: u32 = 0x200;
    pub(in crate::network) const RTA_VIA: u16 = 18;
    pub(in crate::network) const RTA_PREF: u16 = 20;
    pub(in crate::network) const RTA_ENCAP: u16 = 22;
    pub(in crate::network) const RTPROT_RA: u8 = 9;
    pub(in crate::network) const RTNH_F_ONLINK: u8 = 4;
    pub(in crate::network) const RTAX_CC_ALGO: u16 = 16;
}
use uapi::*;

/// The sizes of `struct ifinfomsg`, `ifaddrmsg`, `rtmsg`, `rtnexthop` and `ndmsg`.
pub(super) const LINK: usize = 16;
pub(super) const ADDRESS: usize = 8;
pub(super) const ROUTE: usize = 12;
pub(super) const NEXT_HOP: usize = 8;
pub(super) const NEIGHBOUR: usize = 12;

/// Everything in a namespace that can be carried, and interfaces of every kind.
#[derive(Debug)]
pub struct Namespace {
    /// Its interfaces, in order.
    pub links: Vec<Link>,
    /// The routes of its main table, except those that came with an address or a router's
    /// announcement.
    pub routes: Vec<Route>,
}

/// An interface of any kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// What kind of device it is, as `ip -d link` says (`veth`), or "" for hardware.
    pub kind: String,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
    /// Whether it is an Ethernet interface; if not, its MAC address below means nothing.
    pub is_ethernet: bool,
    /// Whether it is a port of another interface, such as a bridge.
    pub is_port: bool,
    /// The part of it that can be carried.
    pub interface: Interface,
}

/// An address, and the interface it belongs to.
struct RawContents {
    index: u32,
    is_permanent: bool,
    address: Address,
}

impl Netlink {
    /// Reads the whole namespace.
    ///
    /// # Errors
    ///
    /// The kernel's error; EPROTO for an answer that can't be understood.
    pub fn read(&mut self) -> io::Result<Namespace> {
        let mut links = self.links()?;
        for RawContents { index, address, .. } in self.addresses()? {
            if let Some(link) = links.iter_mut().find(|link| link.index == index) {
                link.interface.addresses.push(address);
            }
        }
        for answer in self.list(libc::RTM_GETNEIGH, &[0; NEIGHBOUR])? {
            if let Some((index, neighbour)) = read_neighbour(&answer)
                && let Some(link) = links.iter_mut().find(|link| link.index == index)
            {
                link.interface.neighbours.push(neighbour);
            }
        }
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut header = [0; ROUTE];
            header[0] = family as u8;
            let answers = match self.list(libc::RTM_GETROUTE, &header) {
                // A kernel without IPv6.
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
                other => other?,
            };
            routes.extend(answers.iter().filter_map(|a| read_route(a, &links)));
        }
        Ok(Namespace { links, routes })
    }

    /// Lists every interface, without addresses and neighbours.
    ///
    /// # Errors
    ///
    /// The kernel's error; EPROTO for an answer that can't be understood.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.list(libc::RTM_GETLINK, &[0; LINK])?;
        let links: Option<Vec<Link>> = answers.iter().map(|a| read_link(a)).collect();
        Ok(links.ok_or(Errno::EPROTO)?)
    }

    /// Finds the interface with this name.
    ///
    /// # Errors
    ///
    /// ENODEV if there is none; otherwise the kernel's error.
    pub fn link(&mut self, name: &str) -> io::Result<u32> {
        let mut message = Message::new(&[0; LINK]);
        message.put_name(libc::IFLA_IFNAME, name);
        let answers = self.ask(libc::RTM_GETLINK, 0, message.bytes())?;
        let answer = answers.first().ok_or(Errno::ENODEV)?;
        Ok(u32_at(answer, 4).ok_or(Errno::EPROTO)?)
    }

    /// Returns the addresses of an interface that somebody assigned for good and whose scope goes
    /// beyond its link. The others are made by the kernel or a daemon, and depend on where it is.
    pub(crate) fn lasting_addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let mut found = self.addresses()?;
        found.retain(|found| {
            let is_global = found.address.scope == libc::RT_SCOPE_UNIVERSE;
            found.index == index && found.is_permanent && is_global
        });
        Ok(found.into_iter().map(|found| found.address).collect())
    }

    /// Lists every address that can be carried.
    fn addresses(&mut self) -> io::Result<Vec<RawContents>> {
        let answers = self.list(libc::RTM_GETADDR, &[0; ADDRESS])?;
        let found = answers.iter().filter_map(|answer| read_address(answer));
        let (first, mut rest): (Vec<_>, Vec<_>) = found.partition(|f| f.address.local.is_ipv4());
        // IPv6 lists the latest first.
        rest.reverse();
        Ok(first.into_iter().chain(rest).collect())
    }
}

/// Reads messages as each kind of answer.
#[cfg(fuzzing)]
pub(crate) fn fuzz_answers(mut messages: &[u8]) {
    let mut links = Vec::new();
    while let Some((received, rest)) = super::message::split(messages) {
        let answer = received.payload;
        links.extend(read_link(answer));
        // What one doesn't say is left out.
        let _ = (
            read_address(answer),
            read_neighbour(answer),
            read_route(answer, &links),
        );
        if rest.len() == messages.len() {
            break;
        }
        messages = rest;
    }
}

fn read_link(answer: &[u8]) -> Option<Link> {
    let attributes = answer.get(LINK..)?;
    let hardware = u16_at(answer, 2)?;
    let flags = u32_at(answer, 8)? as i32;
    let kind = attribute(attributes, IFLA_LINKINFO).and_then(|info| text(info, IFLA_INFO_KIND));
    let mac = attribute(attributes, libc::IFLA_ADDRESS).and_then(|a| <[u8; 6]>::try_from(a).ok());
    Some(Link {
        index: u32_at(answer, 4)?,
        kind: kind.unwrap_or_default(),
        is_loopback: flags & libc::IFF_LOOPBACK != 0,
        is_ethernet: hardware == libc::ARPHRD_ETHER && mac.is_some(),
        is_port: number(attributes, IFLA_MASTER).is_some(),
        interface: Interface {
            name: text(attributes, libc::IFLA_IFNAME)?,
            mac: mac.unwrap_or_default(),
            mtu: number(attributes, libc::IFLA_MTU)?,
            up: flags & libc::IFF_UP != 0,
            arp: flags & libc::IFF_NOARP == 0,
            addresses: Vec::new(),
            neighbours: Vec::new(),
        },
    })
}

/// Returns `None` for one that isn't carried: a router announced it, or another host has it too.
fn read_address(answer: &[u8]) -> Option<RawContents> {
    let [family, prefix, flags, scope, index @ ..] = *answer.first_chunk::<ADDRESS>()?;
    let attributes = answer.get(ADDRESS..)?;
    let flags = number(attributes, libc::IFA_FLAGS).unwrap_or(flags.into());
    let announced = attribute(attributes, IFA_PROTO) == Some(&[IFAPROT_KERNEL_RA]);
    let is_ipv6 = i32::from(family) == libc::AF_INET6;
    if is_ipv6 && (announced || flags & (IFA_F_TEMPORARY | IFA_F_DADFAILED) != 0) {
        return None;
    }
    let ip_of = |kind| ip(family, attribute(attributes, kind)?);
    let at_the_end = ip_of(libc::IFA_ADDRESS)?;
    let local = ip_of(libc::IFA_LOCAL).unwrap_or(at_the_end);
    let broadcast = match ip_of(IFA_BROADCAST) {
        Some(IpAddr::V4(broadcast)) => Some(broadcast),
        _ => None,
    };
    let address = Address {
        local,
        prefix,
        peer: (at_the_end != local).then_some(at_the_end),
        broadcast,
        scope,
        flags: flags & (IFA_F_NOPREFIXROUTE | IFA_F_HOMEADDRESS),
        label: text(attributes, IFA_LABEL),
        metric: number(attributes, IFA_RT_PRIORITY).unwrap_or(0),
    };
    Some(RawContents {
        index: u32::from_ne_bytes(index),
        is_permanent: flags & libc::IFA_F_PERMANENT != 0,
        address,
    })
}

/// Returns `None` for one that isn't carried: the kernel resolved it, or it is for other hardware.
fn read_neighbour(answer: &[u8]) -> Option<(u32, Neighbour)> {
    let family = *answer.first()?;
    let index = u32_at(answer, 4)?;
    let state = u16_at(answer, 8)?;
    let flags = *answer.get(10)?;
    let attributes = answer.get(NEIGHBOUR..)?;
    if state & libc::NUD_PERMANENT == 0 || flags & libc::NTF_PROXY != 0 {
        return None;
    }
    let neighbour = Neighbour {
        address: ip(family, attribute(attributes, libc::NDA_DST)?)?,
        mac: attribute(attributes, libc::NDA_LLADDR)?.try_into().ok()?,
        flags: flags & libc::NTF_ROUTER,
    };
    Some((index, neighbour))
}

/// Returns `None` for one that isn't carried.
fn read_route(answer: &[u8], links: &[Link]) -> Option<Route> {
    let [family, prefix, _, tos, table, protocol, scope, kind, ..] =
        *answer.first_chunk::<ROUTE>()?;
    let flags = u32_at(answer, 8)?;
    let attributes = answer.get(ROUTE..)?;
    let table = number(attributes, libc::RTA_TABLE).unwrap_or(table.into());
    let made_by_others = matches!(
        protocol,
        libc::RTPROT_KERNEL | libc::RTPROT_REDIRECT | RTPROT_RA
    );
    if table != u32::from(libc::RT_TABLE_MAIN)
        || made_by_others
        || flags & libc::RTM_F_CLONED != 0
        || attribute(attributes, RTA_ENCAP).is_some()
    {
        return None;
    }
    let destination = match attribute(attributes, libc::RTA_DST) {
        Some(bytes) => ip(family, bytes)?,
        None if i32::from(family) == libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        None => Ipv6Addr::UNSPECIFIED.into(),
    };
    let metrics = attribute(attributes, libc::RTA_METRICS).unwrap_or_default();
    let metrics = super::message::attributes(metrics)
        .filter(|(kind, _)| *kind != RTAX_CC_ALGO)
        .filter_map(|(kind, value)| Some((kind, u32_at(value, 0)?)))
        .collect();
    Some(Route {
        destination,
        prefix,
        tos,
        kind,
        scope,
        protocol,
        source: attribute(attributes, libc::RTA_PREFSRC).and_then(|bytes| ip(family, bytes)),
        metric: number(attributes, libc::RTA_PRIORITY).unwrap_or(0),
        metrics,
        preference: attribute(attributes, RTA_PREF).and_then(|p| p.first().copied()),
        hops: match kind {
            libc::RTN_UNICAST => read_hops(family, flags, attributes, links)?,
            libc::RTN_BLACKHOLE | libc::RTN_UNREACHABLE | libc::RTN_PROHIBIT | libc::RTN_THROW => {
                Vec::new()
            }
            _ => return None,
        },
    })
}

/// Reads a route's next hops; `None` if one can't be carried.
fn read_hops(family: u8, flags: u32, attributes: &[u8], links: &[Link]) -> Option<Vec<Hop>> {
    let hop = |index: u32, flags: u8, weight: u8, attributes: &[u8]| {
        let link = links.iter().find(|link| link.index == index)?;
        let via = attribute(attributes, RTA_VIA);
        let gateway = match (attribute(attributes, libc::RTA_GATEWAY), via) {
            (Some(gateway), _) => Some(ip(family, gateway)?),
            (None, Some(via)) => Some(ip(u16_at(via, 0)? as u8, via.get(2..)?)?),
            (None, None) => None,
        };
        (!link.is_loopback).then(|| Hop {
            interface: link.interface.name.clone(),
            gateway,
            on_link: flags & RTNH_F_ONLINK != 0,
            weight,
        })
    };
    let Some(mut rest) = attribute(attributes, libc::RTA_MULTIPATH) else {
        let index = number(attributes, libc::RTA_OIF)?;
        return Some(vec![hop(index, flags as u8, 0, attributes)?]);
    };
    let mut hops = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0)?);
        let (flags, weight) = (*rest.get(2)?, *rest.get(3)?);
        let index = u32_at(rest, 4)?;
        hops.push(hop(index, flags, weight, rest.get(NEXT_HOP..length)?)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(hops)
}

/// Reads an address of this family.
fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        libc::AF_INET6 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}
