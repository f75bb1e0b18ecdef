//! The monitor's doors to a hostile guest, as the fuzzing in `fuzz/` opens them: each takes bytes
//! that say what such a guest does. A panic is a finding.

mod devices;
mod front_end;
mod kernel;
mod monitor;
mod registers;
mod requests;
mod script;
mod shown;

pub use devices::{balloon, block, console, fs, net, rng, vsock};
pub use front_end::vhost_user;
pub use kernel::kernel;
pub use monitor::monitor;
pub use registers::registers;
pub use shown::shown;
