//! The container's network: the sandbox process is in the container's network namespace, and what
//! it finds there the guest gets.
//!
//! Each interface has a tap beside it in that namespace, which is the other end of one of the
//! guest's network devices. Whatever comes in by either goes out by the other ([`redirect`]),
//! before the host's own network stack sees it: the interface keeps its addresses there, by which
//! its peers' and the host's tools know it, and the guest alone answers to them. The guest's
//! device gets the interface's name, MAC, MTU, addresses, neighbours and routes.
//!
//! Taps go with the process that holds them. Redirections don't: they are known by their
//! preference and by leading nowhere, and go with the next command
//! ([`remove_what_is_left`]).

mod carry;
mod live;
mod namespace;
mod redirect;

use std::{io, path::PathBuf};

pub(super) use carry::CarriedNetwork;
pub(super) use live::LiveNetwork;
pub(super) use namespace::Namespace;
pub(crate) use namespace::remove_what_is_left;

/// Why the container's network can't be the guest's.
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
        Kind(.kind)
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
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An interface's kind at the end of an error, if it has one.
struct Kind<'a>(&'a str);

impl std::fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            "" => Ok(()),
            kind => write!(f, " ({kind})"),
        }
    }
}
