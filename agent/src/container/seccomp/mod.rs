//! `linux.seccomp`: which system calls the workload may make.

mod filter;
mod listener;

pub use crate::container::config::seccomp::{ACTIONS, ARCHITECTURES, FLAGS, OPERATORS, call_name};
pub use crate::container::kernel::seccomp::has as kernel_has;
pub use listener::ListenerError;
pub(crate) use listener::tell;
