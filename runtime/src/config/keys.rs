//! The names of nacre's own annotations in `config.json`.

/// The annotation that chooses the isolation.
pub(crate) const ISOLATION: &str = "dev.nacre.isolation";
/// The annotation that chooses what runs the VM.
pub(crate) const HYPERVISOR: &str = "dev.nacre.vm.hypervisor";
/// The annotation with the VM's number of vCPUs.
pub(crate) const CPUS: &str = "dev.nacre.vm.cpus";
/// The annotation with the VM's memory.
pub(crate) const MEMORY: &str = "dev.nacre.vm.memory";
/// The annotation that says whether the container can make VMs of its own.
pub(crate) const NESTED: &str = "dev.nacre.vm.nested";
/// The annotation that says what is done with the root of a container in a VM.
pub(crate) const ROOTFS: &str = "dev.nacre.vm.rootfs";
/// The annotation with the size of the disk for what is written over the root.
pub(crate) const ROOTFS_DISK: &str = "dev.nacre.vm.rootfs.disk";
/// The annotation with the most guest memory for what is written over the root.
pub(crate) const ROOTFS_MEMORY: &str = "dev.nacre.vm.rootfs.memory";
/// The annotations with what a VM may read and write of its disk: bytes and operations a second.
pub(crate) const DISK_BANDWIDTH: &str = "dev.nacre.vm.disk.bandwidth";
pub(crate) const DISK_OPERATIONS: &str = "dev.nacre.vm.disk.operations";
/// The same, of the host's files.
pub(crate) const FILES_BANDWIDTH: &str = "dev.nacre.vm.files.bandwidth";
pub(crate) const FILES_OPERATIONS: &str = "dev.nacre.vm.files.operations";
/// The same, of its networks in each direction.
pub(crate) const NETWORK_BANDWIDTH: &str = "dev.nacre.vm.network.bandwidth";
pub(crate) const NETWORK_OPERATIONS: &str = "dev.nacre.vm.network.operations";

/// What the names of all of them begin with.
pub(super) const PREFIX: &str = "dev.nacre.";
