//! Runs the guest from the kernel's handover to the power-off.

mod boot;
mod clock;
mod error;
mod failure;
mod guest;
mod kernel_log;
mod limits;
mod log;
mod machine;
mod mounts;
mod networks;
mod nic;
mod overlay;
mod power;
mod processes;
mod relay;
mod server;
mod terminal;
mod vsock;

pub(crate) use boot::run;
