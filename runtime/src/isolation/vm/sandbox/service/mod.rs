//! The sandbox process from the container's creation to its end: it passes signals and commands'
//! requests on to the agent, and records the container's state.

mod carry_out;
mod clock;
mod follow_clock;
mod follow_network;
mod owed;
mod serve;

pub(super) use serve::{CallerStays, Service, ServiceParts};
