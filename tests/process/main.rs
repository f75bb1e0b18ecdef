//! Containers on the host's kernel.

mod commands;
mod killed;
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
    let tests = [lifecycle::tests(), commands::tests(), killed::tests()];
    let tests = tests.into_iter().flatten().collect();
    suite::run(&arguments, Isolation::Process, tests)
}
