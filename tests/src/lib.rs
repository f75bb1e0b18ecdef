//! What the behaviour tests stand on.
//!
//! A test is a function that takes a [`Case`] and panics when it fails. The harness gives
//! each its own directory, marks every process it starts, ends it when it takes too long,
//! and looks afterwards for what it left behind: processes, files in the state directory,
//! mounts, cgroups.
//!
//! Tests of emulated VMs run on this host, whatever its KVM.
//!
//! Tests that need KVM run on this host if its KVM runs stock kernels, and in the testbed
//! otherwise ([`place`]).

// What prints beside the harness's own lines has to look where it is.
#![deny(clippy::print_stdout)]

pub mod bundle;
pub mod captive;
pub mod case;
pub mod client;
pub mod console;
pub mod container;
pub mod descriptors;
pub mod elf;
pub mod fixtures;
pub mod leftovers;
pub mod mounts;
pub mod nacre;
pub mod network;
pub mod place;
pub mod suite;
pub mod systemd;
mod testbeds;
pub mod user;
pub mod vm;

pub use bundle::Bundle;
pub use case::Case;
pub use nacre::{Isolation, Outcome, Running};
pub use suite::Test;
