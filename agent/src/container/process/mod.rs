//! What a container's processes are given on their way to the exec.

pub(crate) mod capabilities;
pub(crate) mod io_priority;
pub(crate) mod keyring;
pub(crate) mod lsm;
pub(crate) mod memory_policy;
pub(crate) mod personality;
pub(crate) mod program;
pub(crate) mod rlimits;
pub(crate) mod scheduler;
pub(crate) mod signals;
pub(crate) mod stdio;
pub(crate) mod terminal;
pub(crate) mod user;
pub(crate) mod workload;
