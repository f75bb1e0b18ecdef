//! A network as it is told from the host to the guest.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// A container's whole network, but for its loopback interface, which is the guest's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its interfaces.
    pub nics: Vec<Nic>,
    /// The routes of its main table.
    pub routes: Vec<Route>,
}

/// An interface, and the guest's device that it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Which of the VM's network devices.
    pub slot: u32,
    /// What it is to be like.
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
    /// Whether its neighbours are asked for their MAC addresses.
    pub arp: bool,
    /// Its addresses, first the ones that the kernel lists first: the order matters to IPv4,
    /// where the first of a network is the primary one.
    pub addresses: Vec<Address>,
    /// Neighbours that somebody set for good.
    pub neighbours: Vec<Neighbour>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The one that it has itself.
    pub local: IpAddr,
    /// How many bits of it are its network's.
    pub prefix: u8,
    /// The one at the other end, if that is another.
    pub peer: Option<IpAddr>,
    /// IPv4's broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// How far it means something (`RT_SCOPE_*`).
    pub scope: u8,
    /// Those of its flags (`IFA_F_*`) that say how it was asked for.
    pub flags: u32,
    /// IPv4's name of it.
    pub label: Option<String>,
    /// The metric of the route that comes with it.
    pub metric: u32,
}

/// A neighbour that is known without being asked for.
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
    /// Where it goes; of the default route, the unspecified address.
    pub destination: IpAddr,
    /// How many bits of that count.
    pub prefix: u8,
    /// The type of service it is for.
    pub tos: u8,
    /// Unicast, blackhole or another kind (`RTN_*`).
    pub kind: u8,
    /// How far away its destination is (`RT_SCOPE_*`).
    pub scope: u8,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
    /// The address that what is sent by it comes from.
    pub source: Option<IpAddr>,
    /// Its metric, IPv6's priority.
    pub metric: u32,
    /// What it says of its path, by number (`RTAX_*`), such as the MTU.
    pub metrics: Vec<(u16, u32)>,
    /// IPv6's preference of its router.
    pub preference: Option<u8>,
    /// The ways that it takes; none for those that lead nowhere.
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
    /// How much of the traffic it gets, less one (`rtnh_hops`).
    pub weight: u8,
}
