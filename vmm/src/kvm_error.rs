//! Why there is no KVM to use.

use std::io;

/// Why there is no KVM to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmError {
    /// There is no `/dev/kvm`, or no KVM behind it.
    #[error("there is no /dev/kvm")]
    Missing(#[source] io::Error),
    /// `/dev/kvm` may not be opened for reading and writing.
    #[error("no permission to open /dev/kvm")]
    Permission(#[source] io::Error),
    /// It opens, but can't run a stock kernel.
    #[error("/dev/kvm can't run a stock guest kernel: {reason}")]
    Unusable {
        /// What it can't do.
        reason: String,
    },
    /// Its guests can't run virtual machines of their own.
    #[error("/dev/kvm has no nested virtualization for guests: {reason}")]
    NotNested {
        /// Why not.
        reason: String,
    },
}
