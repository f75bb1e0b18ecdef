//! The interfaces of this process's network namespace, each with its tap.
//!
//! Each interface has a tap beside it in that namespace, which is the other end of one of the
//! guest's network devices. Whatever comes in by either goes out by the other ([`redirect`](crate::isolation::redirect)),
//! before the host's own network stack sees it: the interface keeps its addresses there, by which
//! its peers and the host's tools know it, and only the guest answers to them. The guest's device
//! gets the interface's name, MAC, MTU, addresses, neighbours and routes.
//!
//! Taps go away with the process that holds them. Redirections don't: they are recognized by their
//! preference and by leading nowhere, and the next command removes them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nacre_agent::network::{Link, Namespace, Netlink, Network, Nic, Watch};
use nacre_vmm::{
    devices::virtio::net::{Tap, queue_pairs},
    monitor::Monitor,
};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::isolation::redirect::{self, Which};

use super::error::{NetworkError, failed};

/// What the names of our taps begin with; a number follows.
const TAP: &str = "nacre-";

/// The largest MTU that a tap can have, and so the largest that a device can report for its
/// interface: the guest is told of larger ones otherwise.
const MAX_MTU: u16 = 65_521;

/// How many interfaces a machine has room for besides those that exist when it is made: where that
/// costs nothing, and under QEMU, where each is a device that the guest sets up.
const SPARE: usize = 8;
const SPARE_EMULATED: usize = 2;

/// The container's network on the host, as it is carried into the guest.
pub(in crate::isolation::vm) struct CarriedNetwork {
    netlink: Netlink,
    watch: Watch,
    slots: usize,
    queues: usize,
    interfaces: Vec<CarriedInterface>,
    /// What the guest was told last, unless it failed.
    told: Option<Network>,
    /// Interfaces that can't be carried, which has been reported.
    refused: Vec<u32>,
}

/// An interface, and how it is carried.
struct CarriedInterface {
    index: u32,
    /// The tap's index.
    tap: u32,
    /// Which of the guest's devices it is.
    slot: usize,
    /// Makes the interface accept packets for any multicast group, as the guest joins groups on its
    /// own.
    _all_groups: OwnedFd,
}

impl CarriedNetwork {
    /// Opens the network of this process's namespace, for a machine with this many vCPUs and room
    /// for this many devices. Nothing is carried yet; from here on no change is missed.
    pub(in crate::isolation::vm) fn open(
        vcpus: u8,
        emulated: bool,
        room: usize,
    ) -> Result<Self, NetworkError> {
        let failed = |step| move |source| NetworkError::Namespace { step, source };
        let watch = Watch::open().map_err(failed("watch"))?;
        let netlink = Netlink::open().map_err(failed("look at"))?;
        let mut network = Self {
            netlink,
            watch,
            slots: 0,
            queues: queue_pairs(vcpus),
            interfaces: Vec::new(),
            told: Some(Network::default()),
            refused: Vec::new(),
        };
        let links = network.netlink.read().map_err(failed("read"))?.links;
        let there = links.iter().filter(|link| is_carried(link)).count();
        let spare = if emulated { SPARE_EMULATED } else { SPARE };
        network.slots = (there + spare).min(room);
        Ok(network)
    }

    /// Returns how many devices the machine must have room for.
    pub(in crate::isolation::vm) fn slots(&self) -> usize {
        self.slots
    }

    /// Plugs in new interfaces, and returns what to tell the guest, if anything has changed since
    /// it was last told. Interfaces that are gone are unplugged once the guest has let go of them
    /// ([`CarriedNetwork::unplug_gone`]).
    ///
    /// # Errors
    ///
    /// The first interface that can't be carried; each is named once. All others are carried all
    /// the same, and told the next time.
    pub(in crate::isolation::vm) fn update(
        &mut self,
        machine: &Monitor,
    ) -> Result<Option<Network>, NetworkError> {
        let found = self.watch.changed().and_then(|_| self.netlink.read());
        let Namespace { links, mut routes } = found.map_err(|source| NetworkError::Namespace {
            step: "read",
            source,
        })?;
        self.refused
            .retain(|index| links.iter().any(|link| link.index == *index));
        let mut nics = Vec::new();
        let mut refusal = None;
        for link in &links {
            let slot = match self.slot(link.index) {
                Some(slot) => slot,
                None if !is_carried(link) || self.refused.contains(&link.index) => continue,
                None => match self.carry(link, machine) {
                    Ok(slot) => slot,
                    Err(error) => {
                        self.refused.push(link.index);
                        refusal.get_or_insert(error);
                        continue;
                    }
                },
            };
            nics.push(Nic {
                slot: slot as u32,
                interface: link.interface.clone(),
            });
        }
        if let Some(error) = refusal {
            return Err(error);
        }
        // Routes through an interface that isn't carried lead nowhere in the guest.
        routes.retain(|route| {
            let mut hops = route.hops.iter();
            hops.all(|hop| nics.iter().any(|nic| nic.interface.name == hop.interface))
        });
        let network = Network { nics, routes };
        if self.told.as_ref() == Some(&network) {
            return Ok(None);
        }
        self.told = Some(network.clone());
        Ok(Some(network))
    }

    /// Notes that the guest couldn't do what it was told: it is told again, with the next change.
    pub(in crate::isolation::vm) fn tell_again(&mut self) {
        self.told = None;
    }

    /// Unplugs the devices of interfaces that are gone, which the guest has let go of. Returns
    /// whether that makes room for an interface that was refused.
    pub(in crate::isolation::vm) fn unplug_gone(&mut self, machine: &Monitor) -> bool {
        let Some(told) = &self.told else {
            return false;
        };
        let before = self.interfaces.len();
        self.interfaces.retain(|carried| {
            let stays = told
                .nics
                .iter()
                .any(|nic| nic.slot as usize == carried.slot);
            if !stays {
                machine.unplug_net(carried.slot);
            }
            stays
        });
        let has_room = self.interfaces.len() < before && !self.refused.is_empty();
        if has_room {
            self.refused.clear();
        }
        has_room
    }

    /// Removes what doesn't go away with this process.
    pub(in crate::isolation::vm) fn close(mut self) -> Result<(), NetworkError> {
        let mut outcome = Ok(());
        for carried in &self.interfaces {
            // The tap may be gone already.
            for which in [Which::To(carried.tap), Which::ToNothing] {
                let removed = redirect::remove(&mut self.netlink, carried.index, which);
                let step = "clean up";
                outcome =
                    outcome.and(removed.map_err(|source| NetworkError::Namespace { step, source }));
            }
        }
        outcome
    }

    fn slot(&self, index: u32) -> Option<usize> {
        let carried = self
            .interfaces
            .iter()
            .find(|carried| carried.index == index);
        carried.map(|carried| carried.slot)
    }

    /// Makes a tap for an interface and plugs it into the machine. Returns the slot.
    fn carry(&mut self, link: &Link, machine: &Monitor) -> Result<usize, NetworkError> {
        let name = &link.interface.name;
        if !link.is_ethernet {
            return Err(NetworkError::NoEthernet {
                name: name.clone(),
                kind: link.kind.clone(),
            });
        }
        if self.interfaces.len() >= self.slots {
            return Err(NetworkError::TooMany(self.slots));
        }
        let all_groups =
            take_all_groups(link.index).map_err(failed("take what is for any group", name))?;
        let tap = Tap::make(TAP, self.queues).map_err(failed("make a tap", name))?;
        let tap_index = self
            .set_up_tap(tap.name())
            .map_err(failed("set a tap up", name))?;
        let slot = machine
            .plug_net(&tap, link.interface.mac, MAX_MTU)
            .map_err(failed("plug a network device in", name))?;
        if let Err(error) = self.redirect(link.index, tap_index) {
            machine.unplug_net(slot);
            return Err(match error.raw_os_error() {
                Some(libc::EEXIST) => NetworkError::Taken { name: name.clone() },
                _ => failed("redirect what comes and goes", name)(error),
            });
        }
        self.interfaces.push(CarriedInterface {
            index: link.index,
            tap: tap_index,
            slot,
            _all_groups: all_groups,
        });
        Ok(slot)
    }

    /// Sets up a tap, which mustn't send anything of its own.
    fn set_up_tap(&mut self, name: &str) -> io::Result<u32> {
        let index = self.netlink.link(name)?;
        self.netlink.set_mtu(index, MAX_MTU.into())?;
        self.netlink.have_no_link_local_address(index)?;
        self.netlink.set_up(index)?;
        Ok(index)
    }

    /// Redirects both ways. The tap's redirection goes away with the tap.
    fn redirect(&mut self, interface: u32, tap: u32) -> io::Result<()> {
        redirect::add(&mut self.netlink, tap, interface)?;
        redirect::add(&mut self.netlink, interface, tap)
    }
}

/// Whether the guest gets an interface. One that is down and has no address belongs to nobody yet:
/// some kernels have such in every new namespace. One that is part of another belongs to that.
fn is_carried(link: &Link) -> bool {
    let is_tap_of_a_vm = link.kind == "tun" && link.interface.name.starts_with(TAP);
    let is_used = link.interface.up || !link.interface.addresses.is_empty();
    is_used && !link.is_loopback && !link.is_port && !is_tap_of_a_vm
}

/// Has an interface accept packets for any multicast group, for as long as the descriptor lives
/// ([packet(7)](https://man7.org/linux/man-pages/man7/packet.7.html)).
fn take_all_groups(index: u32) -> io::Result<OwnedFd> {
    /// `struct packet_mreq`, and a constant of `linux/if_packet.h`.
    #[repr(C)]
    struct Membership {
        interface: libc::c_int,
        kind: libc::c_ushort,
        address_length: libc::c_ushort,
        address: [u8; 8],
    }
    const PACKET_MR_ALLMULTI: libc::c_ushort = 2;
    // The socket is bound to no protocol, and so receives nothing.
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    let membership = Membership {
        interface: index as libc::c_int,
        kind: PACKET_MR_ALLMULTI,
        address_length: 0,
        address: [0; 8],
    };
    // SAFETY: the option takes a struct packet_mreq, which `membership` is.
    Errno::result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const membership).cast(),
            size_of_val(&membership) as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

/// Readable when something of the namespace may have changed.
impl AsFd for CarriedNetwork {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
