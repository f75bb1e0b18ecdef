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
pub mod outside;
pub mod seccomp;

mod error;
mod fork;
mod kernel;
mod life;
mod namespaces;
mod process;
mod root;

pub use config::mount_ids::MountIds;
pub use config::mount_options::mount_options;
pub use error::{Step, StepError, describe};
pub use kernel::cpus::run_anywhere;
pub use kernel::environment::forget as forget_environment;
pub use kernel::identity::Identity;
pub use kernel::user_namespaces::{
    in_one as in_user_namespace, is_ordinary_user, what_keeps_one_from_making_one,
};
pub use life::container::{Container, Handle, StartError};
pub use life::create_error::CreateError;
pub use life::exec::{ExecError, ExecOptions, Executed};
pub use life::executable::protect_executable;
pub use life::gate::Gate;
pub use life::options::Options;
pub use namespaces::entry::NamespaceError;
pub use namespaces::id_map::IdMapError;
pub use namespaces::loopback::bring_loopback_up;
pub use process::rlimits::inherit_rlimits;
pub use process::stdio::Stdio;
pub use process::terminal::{
    ConsoleSocketError, check_socket as check_console_socket, send as send_terminal,
};
