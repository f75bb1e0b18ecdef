//! Podman, containerd and Docker with nacre as their runtime, in process isolation.

mod containerd;
mod docker;
mod image;
mod podman;

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
    let tests = [podman::tests(), containerd::tests(), docker::tests()];
    let tests = tests.into_iter().flatten().collect();
    suite::run(&arguments, Isolation::Process, tests)
}
