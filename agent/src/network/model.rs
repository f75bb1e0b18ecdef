//! A network, as the host describes it to the guest.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// A container's whole network, except for its loopback interface, which is the guest's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its interfaces.
    pub nics: Vec<Nic>,
    /// The routes of its main table.
    pub routes: Vec<Route>,
}

/// An interface, and the guest's device that is to become it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The slot of the VM's network device.
    pub slot: u32,
    /// The interface to make of it.
    pub interface: Interface,
}

/// An Ethernet interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU, in bytes without the Ethernet header.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it resolves its neighbours' MAC addresses.
    pub arp: bool,
    /// Its addresses, in the order in which the kernel lists them. For IPv4 the order matters: the
    /// first address of a network is the primary one.
    pub addresses: Vec<Address>,
    /// Its permanent neighbours.
    pub neighbours: Vec<Neighbour>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The interface's own address.
    pub local: IpAddr,
    /// The length of its network's prefix, in bits.
    pub prefix: u8,
    /// The address at the other end, if it is a different one.
    pub peer: Option<IpAddr>,
    /// IPv4's broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// Its scope (`RT_SCOPE_*`).
    pub scope: u8,
    /// Those of its flags (`IFA_F_*`) that say how it was requested.
    pub flags: u32,
    /// IPv4's label for it.
    pub label: Option<String>,
    /// The metric of the route that comes with it.
    pub metric: u32,
}

/// A neighbour that is known without being resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its flags (`NTF_*`).
    pub flags: u8,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination; for the default route, the unspecified address.
    pub destination: IpAddr,
    /// The length of its prefix, in bits.
    pub prefix: u8,
    /// The type of service that it is for.
    pub tos: u8,
    /// Unicast, blackhole or another kind (`RTN_*`).
    pub kind: u8,
    /// The scope of its destination (`RT_SCOPE_*`).
    pub scope: u8,
    /// The protocol that made it (`RTPROT_*`).
    pub protocol: u8,
    /// The source address of what is sent by it.
    pub source: Option<IpAddr>,
    /// Its metric, IPv6's priority.
    pub metric: u32,
    /// The metrics of its path, by number (`RTAX_*`), such as the MTU.
    pub metrics: Vec<(u16, u32)>,
    /// IPv6's preference for its router.
    pub preference: Option<u8>,
    /// Its next hops; none for routes that lead nowhere.
    pub hops: Vec<Hop>,
}

/// The next hop of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The name of the interface.
    pub interface: String,
    /// The router; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Whether the router is on the link although no address says so.
    pub on_link: bool,
    /// Its share of the traffic, minus one (`rtnh_hops`).
    pub weight: u8,
}
