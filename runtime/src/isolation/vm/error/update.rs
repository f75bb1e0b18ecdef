//! Why a VM can't have other limits.

use crate::config::Bytes;

/// Why a VM can't have these limits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(
        "linux.resources.memory.limit: {asked} is more than the VM's {has}, which it keeps for its \
         life; the annotation dev.nacre.vm.memory makes a larger one"
    )]
    Memory { asked: Bytes, has: Bytes },
    #[error(
        "linux.resources.cpu.quota: it takes {asked} CPUs, and the VM has {has}, which it keeps for \
         its life; the annotation dev.nacre.vm.cpus gives it more"
    )]
    Cpus { asked: u64, has: u32 },
}
