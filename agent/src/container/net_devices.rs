//! `linux.netDevices`: interfaces of the engine's network namespace that are given to the
//! container's
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#network-devices)).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::config::ConfigError;
use crate::network::{Address, Netlink, is_name};

/// An interface that can't be given to a container.
#[derive(Debug, thiserror::Error)]
#[error("linux.netDevices.{name}: can't {step}")]
pub struct NetDeviceError {
    name: String,
    step: &'static str,
    source: io::Error,
}

impl NetDeviceError {
    /// Whether the container's namespace isn't there.
    pub(super) fn finds_no_namespace(&self) -> bool {
        self.step == TO_NAMESPACE && self.source.kind() == io::ErrorKind::NotFound
    }
}

const TO_NAMESPACE: &str = "reach the container's network namespace";

/// The devices of a configuration, by name: theirs, and the one that they are to have.
fn devices(linux: &Linux) -> Vec<(&str, &str)> {
    let devices = linux.net_devices().iter().flatten();
    let mut devices: Vec<(&str, &str)> = devices
        .map(|(name, device)| {
            let new_name = device.name().as_deref().filter(|name| !name.is_empty());
            (name.as_str(), new_name.unwrap_or(name))
        })
        .collect();
    devices.sort_unstable();
    devices
}

/// Checks the names, and that there is a namespace to give the devices to.
pub(super) fn validate(linux: &Linux) -> Result<(), ConfigError> {
    let devices = devices(linux);
    let mut namespaces = linux.namespaces().iter().flatten();
    if !devices.is_empty() && !namespaces.any(|n| n.typ() == LinuxNamespaceType::Network) {
        let problem = "it needs a network namespace, which the container lacks";
        return Err(ConfigError::invalid("linux.netDevices", problem));
    }
    for (index, (name, new_name)) in devices.iter().enumerate() {
        let field = format!("linux.netDevices.{name}");
        for (field, name) in [(field.clone(), name), (format!("{field}.name"), new_name)] {
            if !is_name(name) {
                let problem = format!("{name:?} can't be an interface's name");
                return Err(ConfigError::invalid(field, problem));
            }
        }
        if devices
            .iter()
            .take(index)
            .any(|(_, other)| other == new_name)
        {
            let problem = format!("there are two that are to be {new_name:?}");
            return Err(ConfigError::invalid(format!("{field}.name"), problem));
        }
    }
    Ok(())
}

/// A network namespace, and a line to it.
struct Namespace {
    file: File,
    netlink: Netlink,
}

/// Devices that were given to a container's network namespace. They are back where they were
/// if this is dropped before they are [kept](Given::keep) there.
pub(super) struct Given {
    own: Namespace,
    containers: Namespace,
    moved: Vec<Moved>,
}

/// A device that was given to the container.
struct Moved {
    name: String,
    own_name: String,
    addresses: Vec<Address>,
}

impl Given {
    /// Gives the devices to the namespace of the container's init `pid`, or to the one that it
    /// is to join; `None` if there are none.
    ///
    /// Addresses that were given to them for good go with them, as with runc, and they are up
    /// afterwards.
    pub(super) fn give(linux: &Linux, pid: i32) -> Result<Option<Self>, NetDeviceError> {
        let devices = devices(linux);
        let Some((first, _)) = devices.first() else {
            return Ok(None);
        };
        let mut given = Given::prepare(linux, pid).map_err(|source| NetDeviceError {
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
        let own = Namespace {
            file: File::open("/proc/self/ns/net")?,
            netlink: Netlink::open()?,
        };
        let (a, b) = (fstat(&own.file)?, fstat(&file)?);
        if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
            return Err(io::Error::other("it is the one that they are in"));
        }
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let netlink = Netlink::open();
        // Going back to where one was needs only what leaving needed.
        setns(&own.file, CloneFlags::CLONE_NEWNET)?;
        Ok(Given {
            own,
            containers: Namespace {
                file,
                netlink: netlink?,
            },
            moved: Vec::new(),
        })
    }

    fn give_one(&mut self, name: &str, new_name: &str) -> Result<(), Failed> {
        let own = &mut self.own.netlink;
        let index = own.link(name).map_err(failed("find it"))?;
        let addresses = own.lasting_addresses(index);
        let addresses = addresses.map_err(failed("read its addresses"))?;
        let moved = own.move_to(index, self.containers.file.as_fd(), new_name);
        let name_there = match &moved {
            Ok(()) => new_name,
            // It went there, but the name is taken.
            Err(_) if own.link(name).is_err() => name,
            Err(_) => "",
        };
        if !name_there.is_empty() {
            self.moved.push(Moved {
                name: name_there.to_owned(),
                own_name: name.to_owned(),
                addresses: addresses.clone(),
            });
        }
        moved.map_err(failed("move it to the container's network namespace"))?;
        set_up(&mut self.containers.netlink, new_name, &addresses)
    }

    fn take_back(&mut self, moved: &Moved) -> io::Result<()> {
        let theirs = &mut self.containers.netlink;
        let index = theirs.link(&moved.name)?;
        theirs.move_to(index, self.own.file.as_fd(), &moved.own_name)?;
        let done = set_up(&mut self.own.netlink, &moved.own_name, &moved.addresses);
        done.map_err(|(_, error)| error)
    }

    /// Leaves them to the container: when its namespace ends, so do those that aren't made of
    /// hardware.
    pub(super) fn keep(mut self) {
        self.moved.clear();
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        for moved in std::mem::take(&mut self.moved) {
            // Nobody could be told of an error.
            let _ = self.take_back(&moved);
        }
    }
}

/// A step that failed, and the kernel's reason.
type Failed = (&'static str, io::Error);

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> Failed {
    move |source| (step, source)
}

/// Gives a device its addresses back, and sets it up.
fn set_up(netlink: &mut Netlink, name: &str, addresses: &[Address]) -> Result<(), Failed> {
    let index = netlink.link(name).map_err(failed("find it again"))?;
    for address in addresses {
        // Its label has its interface's old name.
        let address = Address {
            label: None,
            ..address.clone()
        };
        let added = netlink.add_address(index, &address);
        added.map_err(failed("give it its addresses back"))?;
    }
    netlink.set_up(index).map_err(failed("set it up"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(namespaces: Value, devices: Value) -> Result<(), String> {
        let linux = json!({"namespaces": namespaces, "netDevices": devices});
        let linux: Linux = serde_json::from_value(linux).unwrap();
        validate(&linux).map_err(|e| e.to_string())
    }

    #[test]
    fn names_are_checked() {
        let check = |devices| check(json!([{"type": "network"}]), devices);
        check(json!({"eth0": {}, "eth1": {"name": "eth2"}, "eth2": {"name": "eth1"}})).unwrap();
        for (devices, error) in [
            (json!({"a/b": {}}), "linux.netDevices.a/b: \"a/b\" can't be"),
            (
                json!({"e": {"name": ".."}}),
                "linux.netDevices.e.name: \"..\" can't be",
            ),
            (json!({"e": {"name": "eth%d"}}), "linux.netDevices.e.name: "),
            (
                json!({"sixteen-bytes-it": {}}),
                "linux.netDevices.sixteen-bytes-it: ",
            ),
            (json!({"e": {"name": "a b"}}), "linux.netDevices.e.name: "),
            (
                json!({"a": {"name": "c"}, "b": {"name": "c"}}),
                "linux.netDevices.b.name: there are two that are to be \"c\"",
            ),
        ] {
            let found = check(devices).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn they_need_a_network_namespace() {
        check(json!([]), json!({})).unwrap();
        let found = check(json!([]), json!({"eth0": {}})).unwrap_err();
        assert!(
            found.starts_with("linux.netDevices: it needs a network namespace"),
            "{found}"
        );
    }
}
