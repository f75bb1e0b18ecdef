//! `linux.netDevices`: moves interfaces of the engine's network namespace to the container's
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#network-devices)).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use oci_spec::runtime::{Linux, LinuxNamespaceType};

use crate::container::config::net_devices::devices;
use crate::network::{Address, Netlink};

/// Why an interface can't be moved to a container.
#[derive(Debug, thiserror::Error)]
#[error("linux.netDevices.{name}: can't {step}")]
pub struct NetDeviceError {
    name: String,
    step: &'static str,
    source: io::Error,
}

impl NetDeviceError {
    /// Whether it failed because the container's namespace doesn't exist.
    pub(crate) fn finds_no_namespace(&self) -> bool {
        self.step == TO_NAMESPACE && self.source.kind() == io::ErrorKind::NotFound
    }
}

const TO_NAMESPACE: &str = "reach the container's network namespace";

/// A network namespace, and a netlink socket in it.
struct DeviceNamespace {
    file: File,
    netlink: Netlink,
}

/// Devices that were moved to a container's network namespace. They go back if this is dropped
/// before they are [kept](GivenDevices::keep) there.
pub(crate) struct GivenDevices {
    own: DeviceNamespace,
    containers: DeviceNamespace,
    moved: Vec<MovedDevice>,
}

/// A device that was moved to the container.
struct MovedDevice {
    name: String,
    own_name: String,
    addresses: Vec<Address>,
}

impl GivenDevices {
    /// Moves the devices to the namespace of the container's init `pid`, or to the one that it is
    /// to join; `None` if there are none.
    ///
    /// Their permanent addresses go with them, as with runc, and they are up afterwards.
    pub(crate) fn give(linux: &Linux, pid: i32) -> Result<Option<Self>, NetDeviceError> {
        let devices = devices(linux);
        let Some((first, _)) = devices.first() else {
            return Ok(None);
        };
        let mut given = GivenDevices::prepare(linux, pid).map_err(|source| NetDeviceError {
            name: (*first).to_owned(),
            step: TO_NAMESPACE,
            source,
        })?;
        for (name, new_name) in devices {
            given
                .give_one(name, new_name)
                .map_err(|(step, source)| NetDeviceError {
                    name: name.to_owned(),
                    step,
                    source,
                })?;
        }
        Ok(Some(given))
    }

    fn prepare(linux: &Linux, pid: i32) -> io::Result<Self> {
        let mut namespaces = linux.namespaces().iter().flatten();
        let network = namespaces.find(|n| n.typ() == LinuxNamespaceType::Network);
        let path = network.and_then(|n| n.path().clone());
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let file = match path {
            Some(path) => File::open(path)?,
            None => File::open(format!("/proc/{pid}/ns/net"))?,
        };
        let own = DeviceNamespace {
            file: File::open("/proc/self/ns/net")?,
            netlink: Netlink::open()?,
        };
        let (a, b) = (fstat(&own.file)?, fstat(&file)?);
        if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
            return Err(io::Error::other("it is the one that they are in"));
        }
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let netlink = Netlink::open();
        // Going back needs only the rights that leaving needed.
        setns(&own.file, CloneFlags::CLONE_NEWNET)?;
        Ok(GivenDevices {
            own,
            containers: DeviceNamespace {
                file,
                netlink: netlink?,
            },
            moved: Vec::new(),
        })
    }

    fn give_one(&mut self, name: &str, new_name: &str) -> Result<(), FailedStep> {
        let own = &mut self.own.netlink;
        let index = own.link(name).map_err(failed("find it"))?;
        let addresses = own.lasting_addresses(index);
        let addresses = addresses.map_err(failed("read its addresses"))?;
        let moved = own.move_to(index, self.containers.file.as_fd(), new_name);
        let name_there = match &moved {
            Ok(()) => new_name,
            // It was moved, but the new name is taken.
            Err(_) if own.link(name).is_err() => name,
            Err(_) => "",
        };
        if !name_there.is_empty() {
            self.moved.push(MovedDevice {
                name: name_there.to_owned(),
                own_name: name.to_owned(),
                addresses: addresses.clone(),
            });
        }
        moved.map_err(failed("move it to the container's network namespace"))?;
        set_up(&mut self.containers.netlink, new_name, &addresses)
    }

    fn take_back(&mut self, moved: &MovedDevice) -> io::Result<()> {
        let theirs = &mut self.containers.netlink;
        let index = theirs.link(&moved.name)?;
        theirs.move_to(index, self.own.file.as_fd(), &moved.own_name)?;
        let done = set_up(&mut self.own.netlink, &moved.own_name, &moved.addresses);
        done.map_err(|(_, error)| error)
    }

    /// Leaves them to the container: when its namespace ends, so do the devices that aren't
    /// hardware.
    pub(crate) fn keep(mut self) {
        self.moved.clear();
    }
}

impl Drop for GivenDevices {
    fn drop(&mut self) {
        for moved in std::mem::take(&mut self.moved) {
            // There is nobody to report an error to.
            let _ = self.take_back(&moved);
        }
    }
}

/// The step that failed, and the kernel's reason.
type FailedStep = (&'static str, io::Error);

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> FailedStep {
    move |source| (step, source)
}

/// Gives a device its addresses back, and brings it up.
fn set_up(netlink: &mut Netlink, name: &str, addresses: &[Address]) -> Result<(), FailedStep> {
    let index = netlink.link(name).map_err(failed("find it again"))?;
    for address in addresses {
        // Its label has the interface's old name.
        let address = Address {
            label: None,
            ..address.clone()
        };
        let added = netlink.add_address(index, &address);
        added.map_err(failed("give it its addresses back"))?;
    }
    netlink.set_up(index).map_err(failed("set it up"))
}
