//! The interfaces of the namespace that this process is in, each with its tap.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nacre_agent::network::{Link, Namespace, Netlink, Network, Nic, Watch};
use nacre_vmm::{
    RunningVm,
    devices::virtio::net::{Net, Tap, queue_pairs},
};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::{
    NetworkError,
    redirect::{self, Which},
};

/// What our taps are called, with a number.
const TAP: &str = "nacre-";

/// The largest MTU that a tap can have, and so what a device can be told that its interface has
/// at most: the guest is told the rest otherwise.
const MAX_MTU: u16 = 65_521;

/// How many more interfaces a machine has room for than are there when it is made, where that
/// costs nothing, and under QEMU, where each is a device that the guest sets up.
const SPARE: usize = 8;
const SPARE_EMULATED: usize = 2;

/// The container's network on the host, as it is carried into the guest.
pub(in crate::isolation::vm) struct CarriedNetwork {
    netlink: Netlink,
    watch: Watch,
    slots: usize,
    queues: usize,
    interfaces: Vec<Carried>,
    /// What the guest was told last, unless it couldn't do it.
    told: Option<Network>,
    /// Interfaces that can't be carried, which has been said.
    refused: Vec<u32>,
}

/// An interface, and how it is carried.
struct Carried {
    index: u32,
    /// The tap's.
    tap: u32,
    /// Which of the guest's devices.
    slot: usize,
    /// Has the interface take what is for any group, as the guest joins them on its own.
    _all_groups: OwnedFd,
}

impl CarriedNetwork {
    /// That of the namespace that this process is in, for a machine of so many vCPUs and with
    /// room for so many devices. Nothing is carried yet; from now on nothing is missed.
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

    /// How many devices the machine must have room for.
    pub(in crate::isolation::vm) fn slots(&self) -> usize {
        self.slots
    }

    /// Plugs in what has come, and gives what the guest is to be told, if anything has changed
    /// since it was told last. What has gone is unplugged once the guest has let it go
    /// ([`CarriedNetwork::unplug_gone`]).
    ///
    /// # Errors
    ///
    /// The first that can't be carried; an interface is named once. All that can be is carried
    /// all the same, and told the next time.
    pub(in crate::isolation::vm) fn update(
        &mut self,
        machine: &RunningVm,
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
        // Those of an interface that isn't carried lead nowhere in the guest.
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

    /// The guest couldn't do what it was told: it is told again, with the next change.
    pub(in crate::isolation::vm) fn tell_again(&mut self) {
        self.told = None;
    }

    /// Takes out the devices of interfaces that are gone, which the guest has let go of. Gives
    /// whether there is room by that for an interface that was refused.
    pub(in crate::isolation::vm) fn unplug_gone(&mut self, machine: &RunningVm) -> bool {
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

    /// Takes away what doesn't go with this process.
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

    /// Makes a tap for an interface and plugs it into the machine. Gives the slot.
    fn carry(&mut self, link: &Link, machine: &RunningVm) -> Result<usize, NetworkError> {
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
        let net = Net::new(tap, link.interface.mac, MAX_MTU)
            .map_err(failed("make a network device", name))?;
        let slot = machine
            .plug_net(net)
            .map_err(failed("plug a network device in", name))?;
        if let Err(error) = self.redirect(link.index, tap_index) {
            machine.unplug_net(slot);
            return Err(match error.raw_os_error() {
                Some(libc::EEXIST) => NetworkError::Taken { name: name.clone() },
                _ => failed("redirect what comes and goes", name)(error),
            });
        }
        self.interfaces.push(Carried {
            index: link.index,
            tap: tap_index,
            slot,
            _all_groups: all_groups,
        });
        Ok(slot)
    }

    /// Nothing of its own is to come from a tap.
    fn set_up_tap(&mut self, name: &str) -> io::Result<u32> {
        let index = self.netlink.link(name)?;
        self.netlink.set_mtu(index, MAX_MTU.into())?;
        self.netlink.have_no_link_local_address(index)?;
        self.netlink.set_up(index)?;
        Ok(index)
    }

    /// Both ways. The tap's goes with the tap.
    fn redirect(&mut self, interface: u32, tap: u32) -> io::Result<()> {
        redirect::add(&mut self.netlink, tap, interface)?;
        redirect::add(&mut self.netlink, interface, tap)
    }
}

/// Whether an interface is the guest's to have. One that is down and has no address is nobody's
/// yet: some kernels have such in every new namespace. One that is part of another is that one's.
fn is_carried(link: &Link) -> bool {
    let is_tap_of_a_vm = link.kind == "tun" && link.interface.name.starts_with(TAP);
    let is_used = link.interface.up || !link.interface.addresses.is_empty();
    is_used && !link.is_loopback && !link.is_port && !is_tap_of_a_vm
}

/// Has an interface let in what is for any group of receivers, for as long as the descriptor
/// lives ([packet(7)](https://man7.org/linux/man-pages/man7/packet.7.html)).
fn take_all_groups(index: u32) -> io::Result<OwnedFd> {
    /// `struct packet_mreq`, and of `linux/if_packet.h`.
    #[repr(C)]
    struct Membership {
        interface: libc::c_int,
        kind: libc::c_ushort,
        address_length: libc::c_ushort,
        address: [u8; 8],
    }
    const PACKET_MR_ALLMULTI: libc::c_ushort = 2;
    // It is bound to no protocol, and so receives nothing.
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

fn failed<E>(step: &'static str, name: &str) -> impl FnOnce(E) -> NetworkError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let name = name.to_owned();
    move |error| NetworkError::Interface {
        step,
        name,
        source: error.into(),
    }
}

/// Readable when something of the namespace may have changed.
impl AsFd for CarriedNetwork {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
