//! Podman, containerd and Docker, which run containers on the host's kernel.

// A line of a test, cut in two by what it prints, has no outcome for tests/lane.
#![deny(clippy::print_stdout)]

#[path = "mod.rs"]
mod clients;

use std::process::ExitCode;

use nacre_tests::place::Place;
use nacre_tests::{Isolation, suite};

fn main() -> ExitCode {
    suite::main(Place::Host, Isolation::Process, [clients::tests()])
}
