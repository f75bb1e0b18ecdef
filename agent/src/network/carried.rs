//! Makes a container's network in a guest like the one on the host, and keeps it so.
//!
//! What the container itself does to its network is left alone: only what has changed on the host
//! is changed here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::model::{Address, Interface, Neighbour, Network, Nic, Route};
use super::name::is_name;
use super::netlink::Netlink;

/// How many interfaces a container can have, and how much of everything they can have: more than
/// anyone has, and less than would keep a guest busy.
const MAX_NICS: usize = 64;
const MAX_OF_EACH: usize = 4096;

/// Why something can't be made as it is on the host.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The guest's kernel can't be asked.
    #[error("can't reach the container's network namespace")]
    Namespace(#[source] io::Error),
    /// There are more of something than is sensible.
    #[error("the container's network has {count} {what}, of which a VM can have {max}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A step failed for an interface.
    #[error("network interface {name:?}: can't {step}")]
    Interface {
        /// The interface's name.
        name: String,
        /// The step.
        step: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A route can't be made.
    #[error("can't make the route to {destination}/{prefix}")]
    Route {
        /// The destination.
        destination: std::net::IpAddr,
        /// The length of its prefix, in bits.
        prefix: u8,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// The guest's network devices.
pub trait Nics {
    /// Returns a line to the namespace that they are in before a container gets them.
    fn netlink(&mut self) -> &mut Netlink;

    /// Makes the device in a slot an interface, and returns its number in that namespace.
    ///
    /// # Errors
    ///
    /// The kernel's error, if it can't be made one.
    fn take(&mut self, slot: u32) -> io::Result<u32>;

    /// Makes a device's interface go away, wherever that is.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    fn release(&mut self, slot: u32) -> io::Result<()>;
}

/// A container's network.
pub struct CarriedNetwork {
    namespace: File,
    netlink: Netlink,
    /// The interfaces as last requested, with their numbers here.
    nics: Vec<(Nic, u32)>,
    routes: Vec<Route>,
}

impl CarriedNetwork {
    /// Takes the network of a namespace to which nothing has been carried yet.
    ///
    /// # Errors
    ///
    /// If the namespace can't be reached.
    pub fn new(namespace: File) -> Result<Self, CarryError> {
        let netlink = Netlink::open_in(&namespace).map_err(CarryError::Namespace)?;
        Ok(CarriedNetwork {
            namespace,
            netlink,
            nics: Vec::new(),
            routes: Vec::new(),
        })
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Makes the network what it is on the host.
    ///
    /// # Errors
    ///
    /// If something can't be made so. What was done before that stays, and the next call continues
    /// from there.
    pub fn set(&mut self, nics: &mut impl Nics, wanted: &Network) -> Result<(), CarryError> {
        check(wanted)?;
        self.remove_routes(|route| !wanted.routes.contains(route))?;
        // First what is gone or must be made anew, since another interface may have its name by
        // this time.
        let stays = |old: &Nic| {
            let mut same = wanted.nics.iter().filter(|new| new.slot == old.slot);
            same.any(|new| can_become(&old.interface, &new.interface))
        };
        while let Some(place) = self.nics.iter().position(|(old, _)| !stays(old)) {
            self.give_back(nics, place)?;
        }
        for nic in &wanted.nics {
            self.set_nic(nics, nic)?;
        }
        // Routers are reached by the routes to their links.
        let (direct, routed): (Vec<_>, Vec<_>) = wanted
            .routes
            .iter()
            .partition(|route| route.hops.iter().all(|hop| hop.gateway.is_none()));
        for route in direct.into_iter().chain(routed) {
            self.set_route(route)?;
        }
        Ok(())
    }

    fn set_nic(&mut self, nics: &mut impl Nics, wanted: &Nic) -> Result<(), CarryError> {
        let name = wanted.interface.name.as_str();
        let place = self
            .nics
            .iter()
            .position(|(old, _)| old.slot == wanted.slot);
        let place = match place {
            Some(place) => place,
            None => {
                let index = self.take(nics, wanted).map_err(failed(name, "make it"))?;
                let bare = Nic {
                    slot: wanted.slot,
                    interface: Interface {
                        mtu: 0,
                        up: false,
                        arp: true,
                        addresses: Vec::new(),
                        neighbours: Vec::new(),
                        ..wanted.interface.clone()
                    },
                };
                self.nics.push((bare, index));
                self.nics.len() - 1
            }
        };
        let Some((nic, index)) = self.nics.get_mut(place) else {
            return Ok(());
        };
        change(
            &mut self.netlink,
            *index,
            &mut nic.interface,
            &wanted.interface,
        )
    }

    /// Moves a device into the namespace.
    fn take(&mut self, nics: &mut impl Nics, wanted: &Nic) -> io::Result<u32> {
        let outside = nics.take(wanted.slot)?;
        let name = &wanted.interface.name;
        let netlink = nics.netlink();
        netlink.move_to(outside, self.namespace.as_fd(), name)?;
        let index = self.netlink.link(name)?;
        self.netlink.prepare(index, wanted.interface.mac)?;
        Ok(index)
    }

    /// Takes an interface away, and with it all that was set on it.
    fn give_back(&mut self, nics: &mut impl Nics, place: usize) -> Result<(), CarryError> {
        let (nic, _) = self.nics.swap_remove(place);
        let name = &nic.interface.name;
        nics.release(nic.slot)
            .map_err(failed(name, "take it away"))?;
        self.routes
            .retain(|route| route.hops.iter().all(|hop| hop.interface != *name));
        Ok(())
    }

    fn remove_routes(&mut self, which: impl Fn(&Route) -> bool) -> Result<(), CarryError> {
        while let Some(place) = self.routes.iter().position(&which) {
            let route = self.routes.swap_remove(place);
            let index = |name: &str| index_of(&self.nics, name);
            self.netlink
                .remove_route(&route, index)
                .map_err(route_failed(&route))?;
        }
        Ok(())
    }

    fn set_route(&mut self, route: &Route) -> Result<(), CarryError> {
        if self.routes.contains(route) {
            return Ok(());
        }
        let index = |name: &str| index_of(&self.nics, name);
        self.netlink
            .set_route(route, index)
            .map_err(route_failed(route))?;
        self.routes.push(route.clone());
        Ok(())
    }
}

fn index_of(nics: &[(Nic, u32)], name: &str) -> Option<u32> {
    let found = nics.iter().find(|(nic, _)| nic.interface.name == name);
    found.map(|(_, index)| *index)
}

/// Checks the limits: the host is trusted, but the contents of its namespaces are made by others.
fn check(network: &Network) -> Result<(), CarryError> {
    let bound = |what, count, max| {
        if count > max {
            Err(CarryError::TooMany { what, count, max })
        } else {
            Ok(())
        }
    };
    bound("interfaces", network.nics.len(), MAX_NICS)?;
    bound("routes", network.routes.len(), MAX_OF_EACH)?;
    for nic in &network.nics {
        let Interface {
            name,
            addresses,
            neighbours,
            ..
        } = &nic.interface;
        bound("addresses", addresses.len(), MAX_OF_EACH)?;
        bound("neighbours", neighbours.len(), MAX_OF_EACH)?;
        if !is_name(name) {
            let source = io::ErrorKind::InvalidInput.into();
            return Err(failed(name, "have such a name")(source));
        }
    }
    Ok(())
}

/// Returns whether an interface can become another while it is in use. One that is set down loses
/// most of what it has.
fn can_become(old: &Interface, new: &Interface) -> bool {
    (&old.name, old.mac) == (&new.name, new.mac) && (new.up || !old.up)
}

/// Makes the interface what it is to be, step by step, recording in `is` what it has become.
fn change(
    netlink: &mut Netlink,
    index: u32,
    is: &mut Interface,
    wanted: &Interface,
) -> Result<(), CarryError> {
    let name = wanted.name.as_str();
    if is.mtu != wanted.mtu {
        let step = format!("set its MTU to {}", wanted.mtu);
        netlink
            .set_mtu(index, wanted.mtu)
            .map_err(failed(name, step))?;
        is.mtu = wanted.mtu;
    }
    if is.arp != wanted.arp {
        netlink
            .set_arp(index, wanted.arp)
            .map_err(failed(name, "set whether it asks for neighbours"))?;
        is.arp = wanted.arp;
        // The kernel drops them.
        is.neighbours.clear();
    }
    // Before addresses are added: otherwise, the routes that come with IPv6 addresses are delayed
    // until the kernel has noticed that there is a carrier.
    if is.up != wanted.up {
        netlink.set_up(index).map_err(failed(name, "set it up"))?;
        is.up = true;
    }
    let step =
        |what: &str, address: &Address| format!("{what} {}/{}", address.local, address.prefix);
    let goes = |address: &Address| !wanted.addresses.contains(address);
    while let Some(place) = is.addresses.iter().position(goes) {
        let address = is.addresses.swap_remove(place);
        netlink
            .remove_address(index, &address)
            .map_err(failed(name, step("take away", &address)))?;
    }
    for address in &wanted.addresses {
        if !is.addresses.contains(address) {
            netlink
                .add_address(index, address)
                .map_err(failed(name, step("give it", address)))?;
            is.addresses.push(address.clone());
        }
    }
    let goes = |neighbour: &Neighbour| !wanted.neighbours.contains(neighbour);
    while let Some(place) = is.neighbours.iter().position(goes) {
        let neighbour = is.neighbours.swap_remove(place);
        let step = format!("forget its neighbour {}", neighbour.address);
        netlink
            .remove_neighbour(index, &neighbour)
            .map_err(failed(name, step))?;
    }
    for neighbour in &wanted.neighbours {
        if !is.neighbours.contains(neighbour) {
            let step = format!("tell it of its neighbour {}", neighbour.address);
            netlink
                .set_neighbour(index, neighbour)
                .map_err(failed(name, step))?;
            is.neighbours.push(neighbour.clone());
        }
    }
    Ok(())
}

fn failed(name: &str, step: impl Into<String>) -> impl FnOnce(io::Error) -> CarryError {
    let (name, step) = (name.to_owned(), step.into());
    move |source| CarryError::Interface { name, step, source }
}

fn route_failed(route: &Route) -> impl FnOnce(io::Error) -> CarryError {
    let (destination, prefix) = (route.destination, route.prefix);
    move |source| CarryError::Route {
        destination,
        prefix,
        source,
    }
}
