//! Loads and checks `config.json`
//! ([OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config.md)).

pub(crate) mod affinity;
pub(crate) mod capabilities;
pub(crate) mod devices;
pub(crate) mod hooks;
pub(crate) mod id_map;
pub(crate) mod io_priority;
pub(crate) mod memory_policy;
pub(crate) mod mount_ids;
pub(crate) mod mount_options;
pub(crate) mod mounts;
pub(crate) mod net_devices;
pub(crate) mod program;
pub(crate) mod propagation;
pub(crate) mod scheduler;
pub(crate) mod seccomp;
pub(crate) mod sysctl;
pub(crate) mod terminal;
pub(crate) mod time_offsets;

mod error;
mod left_out;
mod linux;
mod load;
mod namespaces;
mod process;
mod rlimits;
mod validate;
mod wanted;

pub use error::{ConfigError, JsonError, MAX_SIZE};
pub use left_out::from_resources as left_out_of_resources;
pub(crate) use linux::LinuxConfig;
pub use load::{load, read, read_process, resolve_paths};
pub use namespaces::has_new_namespace;
pub(crate) use process::ProcessConfig;
pub use process::validate_process;
pub(crate) use validate::ContainerConfig;
pub use validate::validate;
