//! The container engine: an OCI `config.json` in, a running workload out.
//!
//! [`config::load`] reads and checks a configuration. [`Container::create`] forks the
//! container's first process, its *init*, which enters new namespaces, assembles the root
//! file system, gives up its privileges and stops just before the workload's exec;
//! [`Container::start`] lets it go on. The init's side is one function that reads like that
//! list, in `init.rs`; each step has a file of its name.
//!
//! The caller must have a single thread while it creates a container: the init is forked from
//! it, and runs the same program's code until the exec.
//!
//! Linux 5.14 or later is needed, for `mount_setattr` and `cgroup.kill`.

pub mod cgroups;
pub mod config;
pub mod hooks;

mod affinity;
mod capabilities;
mod cgroup_mount;
mod channel;
mod child;
mod copy_up;
mod create;
mod crossing;
mod devices;
mod environment;
mod error;
mod exec;
mod executable;
mod executed;
mod gate;
mod host_namespaces;
mod id_map;
mod identity;
mod init;
mod io_priority;
mod joined_proc;
mod keyring;
mod life;
mod lsm;
mod masked;
mod memory_policy;
mod mount_ids;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod network;
pub mod outside;
mod passage;
mod personality;
mod process;
mod procfs;
mod ready;
mod rlimits;
mod rootfs;
mod safe_path;
mod scheduler;
pub mod seccomp;

mod signals;
mod stdio;
mod sys;
mod sysctl;
mod terminal;
mod user;
mod user_namespaces;
mod workload;

pub use create::{CreateError, Options};
pub use environment::forget as forget_environment;
pub use error::describe;
pub use exec::{ExecError, ExecOptions, Executed};
pub use executable::protect_executable;
pub use gate::Gate;
pub use id_map::IdMapError;
pub use identity::Identity;
pub use life::{Container, Handle, StartError};
pub use mount_ids::MountIds;
pub use mount_options::mount_options;
pub use namespaces::NamespaceError;
pub use network::bring_loopback_up;
pub use stdio::Stdio;
pub use terminal::{
    ConsoleSocketError, check_socket as check_console_socket, send as send_terminal,
};
