//! Thin calls to the kernel, and what it says of itself and of processes.

pub(crate) mod cpu_list;
pub(crate) mod cpus;
pub(crate) mod environment;
pub(crate) mod identity;
pub(crate) mod mount_calls;
pub(crate) mod mountinfo;
pub(crate) mod procfs;
pub(crate) mod safe_path;
pub(crate) mod seccomp;
pub(crate) mod sockets;
pub(crate) mod sys;
pub(crate) mod user_namespaces;
pub(crate) mod wait;
