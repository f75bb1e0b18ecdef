//! The container's network: the sandbox process is in the container's network namespace, and the
//! guest gets what is there.

mod carry;
mod error;
mod live;
mod namespace;

pub(super) use carry::CarriedNetwork;
pub(super) use error::NetworkError;
pub(super) use live::LiveNetwork;
pub(super) use namespace::Namespace;
