//! How long a direction's turn is, and how it ends.

use std::io;

use crate::devices::virtio::queue::QueueError;

/// How many packets are moved in one direction before the other gets its turn.
pub(super) const BATCH: usize = 64;

/// What a direction waits for before it can continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitFor {
    Nothing,
    /// A packet to be read, or room to write one.
    Tap,
    /// A chain of the driver.
    Driver,
    /// More of what it may do.
    Limit,
}

/// Why the device stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the host's interface is gone")]
    Gone,
    #[error("reading from the host's interface: {0}")]
    Receive(io::Error),
    #[error("waiting for events: {0}")]
    Wait(io::Error),
}
