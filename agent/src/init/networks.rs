//! Sets up the container's network: in the container's namespace, makes the VM's network devices
//! what its interfaces are on the host.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nacre_agent::container::bring_loopback_up;
use nacre_agent::network::{CarriedNetwork, CarryError, Netlink, Network, Nics};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::nic;

/// Why a network can't be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    #[error("the VM's network is that of the container {0:?}")]
    AnotherHasIt(String),
    #[error("can't make a network namespace for the container")]
    Make(#[source] io::Error),
    #[error("can't open the container's network namespace")]
    Open(#[source] io::Error),
    #[error("can't reach the VM's network devices")]
    Devices(#[source] io::Error),
    #[error(transparent)]
    Carry(#[from] CarryError),
}

/// The network of the VM's container, if it has one.
#[derive(Default)]
pub(super) struct Networks(Option<Own>);

/// A network, and the container it belongs to.
struct Own {
    id: String,
    carried: CarriedNetwork,
    devices: Devices,
}

impl Networks {
    /// Makes a container's network what it is on the host. If the container doesn't exist yet, the
    /// network is made in a namespace that [`Networks::enter`] has the container join.
    pub(super) fn set(
        &mut self,
        id: &str,
        pid: Option<Pid>,
        network: &Network,
    ) -> Result<(), NetworkError> {
        let own = match &mut self.0 {
            Some(own) if own.id != id => return Err(NetworkError::AnotherHasIt(own.id.clone())),
            Some(own) => own,
            None if network.nics.is_empty() && network.routes.is_empty() => return Ok(()),
            none => {
                let namespace = match pid {
                    Some(pid) => {
                        File::open(format!("/proc/{pid}/ns/net")).map_err(NetworkError::Open)?
                    }
                    None => make_namespace().map_err(NetworkError::Make)?,
                };
                none.insert(Own {
                    id: id.to_owned(),
                    carried: CarriedNetwork::new(namespace)?,
                    devices: Devices(Netlink::open().map_err(NetworkError::Devices)?),
                })
            }
        };
        Ok(own.carried.set(&mut own.devices, network)?)
    }

    /// Returns a container's configuration, with the namespace that was made for it, if any.
    pub(super) fn enter<'a>(&self, id: &str, spec: &'a Spec) -> Cow<'a, Spec> {
        let mut spec = Cow::Borrowed(spec);
        let Some(own) = self.0.as_ref().filter(|own| own.id == id) else {
            return spec;
        };
        let linux = spec.to_mut().linux_mut().as_mut();
        let namespaces = linux.and_then(|linux| linux.namespaces_mut().as_mut());
        for namespace in namespaces.into_iter().flatten() {
            if namespace.typ() == LinuxNamespaceType::Network {
                let number = own.carried.namespace().as_raw_fd();
                namespace.set_path(Some(format!("/proc/self/fd/{number}").into()));
            }
        }
        spec
    }
}

/// Makes a new namespace with its loopback interface up. The agent has one thread, and is back in
/// its own namespace afterwards.
fn make_namespace() -> io::Result<File> {
    let open = || File::open("/proc/self/ns/net");
    let own = open()?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let made = bring_loopback_up().and_then(|()| open());
    setns(&own, CloneFlags::CLONE_NEWNET)?;
    made
}

/// The VM's network devices, which are in the agent's namespace until a container gets them.
struct Devices(Netlink);

impl Nics for Devices {
    fn netlink(&mut self) -> &mut Netlink {
        &mut self.0
    }

    fn take(&mut self, slot: u32) -> io::Result<u32> {
        let name = nic::bind(slot)?;
        self.0.link(&name)
    }

    fn release(&mut self, slot: u32) -> io::Result<()> {
        nic::unbind(slot)
    }
}
