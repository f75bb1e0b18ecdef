//! Compiles `linux.seccomp` to a program for the kernel.

mod arch;
mod profile;
mod program;

pub use arch::call_name;
pub use profile::{ACTIONS, ARCHITECTURES, FLAGS, OPERATORS};
pub(crate) use profile::{Filter, Profile};
pub(crate) use program::{AllowedCall, let_through};
