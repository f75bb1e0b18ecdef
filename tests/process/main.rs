//! Containers on the host's kernel.

#[path = "../lifecycle/mod.rs"]
mod lifecycle;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use nacre_tests::{Isolation, fixtures, place, suite};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        if let Err(why) = place::here() {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
        fixtures::mount_all();
    }
    suite::run(&arguments, Isolation::Process, lifecycle::tests())
}
