//! Podman, containerd and Docker with nacre as their runtime, in process isolation.

mod containerd;
mod docker;
mod image;
mod podman;

use std::process::ExitCode;

use nacre_tests::place::Place;
use nacre_tests::{Isolation, suite};

fn main() -> ExitCode {
    let tests = [podman::tests(), containerd::tests(), docker::tests()];
    suite::main(Place::Host, Isolation::Process, tests)
}
