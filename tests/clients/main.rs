//! Podman, containerd and Docker, which run containers on the host's kernel.

#[path = "mod.rs"]
mod clients;

use std::process::ExitCode;

use nacre_tests::place::Place;
use nacre_tests::{Isolation, suite};

fn main() -> ExitCode {
    suite::main(Place::Host, Isolation::Process, [clients::tests()])
}
