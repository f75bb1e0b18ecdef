//! A minimal KVM microVM monitor: guest memory, vCPUs, kernel loading, virtio devices.
//! It knows nothing of containers.

pub mod devices;
