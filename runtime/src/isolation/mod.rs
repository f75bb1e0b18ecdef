//! The ways to isolate a container, and what they have in common.

pub(crate) mod confinement;
mod console;
mod descriptors;
mod exec;
mod found;
pub(crate) mod hooks;
pub(crate) mod process;
mod record;
mod redirect;
mod relay;
pub(crate) mod remains;
mod signals;
mod status_error;
pub(crate) mod told;
pub(crate) mod vm;
pub(crate) mod wait;

pub(crate) use exec::{ExecRequest, exec_failed};
pub(crate) use found::FoundContainer;
pub(crate) use signals::Recipients;
pub(crate) use status_error::StatusError;
