//! Containers on the host's kernel.

// A line of a test, cut in two by what it prints, has no outcome for tests/lane.
#![deny(clippy::print_stdout)]

mod commands;
#[path = "../lifecycle/mod.rs"]
mod lifecycle;
mod rootless;

use std::process::ExitCode;

use nacre_tests::place::Place;
use nacre_tests::{Isolation, suite};

fn main() -> ExitCode {
    let tests = [lifecycle::tests(), commands::tests(), rootless::tests()];
    suite::main(Place::Host, Isolation::Process, tests)
}
