//! Virtio devices (virtio 1.3).
//!
//! A device knows its features, its configuration space, its queues and guest memory. It doesn't
//! know how a driver reaches it: that is the job of a *transport* (virtio over MMIO inside the
//! monitor, vhost-user elsewhere), which owns the device, negotiates features, builds the queues
//! and hands them over at activation.

pub mod balloon;
pub mod block;
mod buffers;
mod config;
pub mod console;
mod device;
pub mod fs;
pub(crate) mod mmio;
pub mod net;
mod own_files;
mod queue;
pub mod rng;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code))] // the tests use all of it
pub(crate) mod testing;
pub(crate) mod thread;
pub mod throttle;
mod vector;
pub mod vhost_user;
pub mod vsock;

pub use device::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};
