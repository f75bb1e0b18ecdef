//! The `nacre` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: this is the only thread, and nothing has been done yet.
    unsafe { nacre::run() }
}
