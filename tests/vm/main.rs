//! Containers in microVMs.

mod cgroup;
mod failures;
mod killed;
#[path = "../lifecycle/mod.rs"]
mod lifecycle;
mod machine;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use nacre_tests::{Isolation, fixtures, place, suite};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        if let Some(code) = place::elsewhere() {
            return code;
        }
        fixtures::mount_all();
    }
    let tests = [
        lifecycle::tests(),
        machine::tests(),
        cgroup::tests(),
        failures::tests(),
        killed::tests(),
    ];
    let tests = tests.into_iter().flatten().collect();
    suite::run(&arguments, Isolation::Vm, tests)
}
