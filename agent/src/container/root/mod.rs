//! What a container's root is made of.

pub(crate) mod cgroup_mount;
pub(crate) mod copy_up;
pub(crate) mod devices;
pub(crate) mod file_system;
pub(crate) mod locks;
pub(crate) mod masked;
pub(crate) mod mount_ids;
pub(crate) mod mounts;
pub(crate) mod rootfs;
pub(crate) mod target;
