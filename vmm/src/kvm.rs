//! Whether this host's KVM can run a stock kernel.

use std::io;

use kvm_ioctls::{Cap, Kvm};

/// What a machine needs of KVM.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

const API_VERSION: i32 = 12;

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
}

/// Opens `/dev/kvm`, if it can run a stock kernel.
///
/// # Errors
///
/// [`KvmError`].
pub fn check() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| classify(error.into()))?;
    let unusable = |reason: String| Err(KvmError::Unusable { reason });
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return unusable(format!("its API has version {version}, not {API_VERSION}"));
    }
    if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return unusable(format!("it lacks {name}"));
    }
    Ok(kvm)
}

fn classify(error: io::Error) -> KvmError {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => KvmError::Permission(error),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KvmError::Missing(error),
        _ => KvmError::Unusable {
            reason: format!("it can't be opened: {error}"),
        },
    }
}
