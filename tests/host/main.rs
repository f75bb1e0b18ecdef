//! What needs no VM: what is refused before there is one, and the commands beside `run`.

// A line of a test, cut in two by what it prints, has no outcome for tests/lane.
#![deny(clippy::print_stdout)]

mod bad_input;
mod commands;
mod kvm;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use nacre_tests::{Isolation, nacre, suite};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(why) = nacre::check_built()
    {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    let tests = [bad_input::tests(), commands::tests(), kvm::tests()];
    suite::run(
        &arguments,
        Isolation::Vm,
        tests.into_iter().flatten().collect(),
    )
}
