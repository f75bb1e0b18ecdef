//! Why a guest can't have the container's network.

use std::{error::Error, fmt, io, path::PathBuf};

/// Why the guest can't have the container's network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("can't make a network namespace for the container")]
    Make(#[source] io::Error),
    #[error("linux.namespaces: can't join the network namespace {path}")]
    Join {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "linux.namespaces: the network namespace {0} is the host's own, and a VM can't use the \
         host's network"
    )]
    TheHosts(PathBuf),
    #[error("can't {step} the container's network namespace")]
    Namespace {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "the interface {name:?} of the container's network namespace can't be carried into a VM: \
         it has no Ethernet frames{}",
        InterfaceKind(.kind)
    )]
    NoEthernet { name: String, kind: String },
    #[error(
        "the interface {name:?} of the container's network namespace can't be carried into a VM: \
         what comes in by it is somebody else's already, such as another VM's in this namespace"
    )]
    Taken { name: String },
    #[error(
        "the container's network namespace has more interfaces than the {0} that this VM was \
         made for"
    )]
    TooMany(usize),
    #[error("can't {step} for the interface {name:?} of the container's network namespace")]
    Interface {
        step: &'static str,
        name: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// An interface's kind at the end of an error, if it has one.
struct InterfaceKind<'a>(&'a str);

impl fmt::Display for InterfaceKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            kind => write!(f, " ({kind})"),
        }
    }
}

pub(super) fn failed<E>(step: &'static str, name: &str) -> impl FnOnce(E) -> NetworkError
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let name = name.to_owned();
    move |error| NetworkError::Interface {
        step,
        name,
        source: error.into(),
    }
}
