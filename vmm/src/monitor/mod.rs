//! The monitor in a process of its own: what touches a guest's memory has no rights, and what has
//! rights doesn't touch it.
//!
//! [`spawn`] clones a process that makes the machine, gives up everything but what it needs
//! ([`confine`]), and then runs it: its vCPUs, or QEMU as its child, and its devices. Its parent
//! gets a [`Monitor`], and asks for what is to be done over a socket; each request is answered, and
//! whoever asks waits for no longer than a limit. The answers are taken as hostile: a guest may have
//! taken the monitor over.

mod confine;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod handle;
mod serve;
mod spawn;
mod wire;

pub use confine::Inheritance;
pub use handle::Monitor;
pub use spawn::spawn;
