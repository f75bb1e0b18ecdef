//! Containers in microVMs.

mod cgroup;
mod failures;
mod hogs;
mod killed;
#[path = "../lifecycle/mod.rs"]
mod lifecycle;
mod machine;
mod update;

use std::process::ExitCode;

use nacre_tests::place::Place;
use nacre_tests::{Isolation, suite};

fn main() -> ExitCode {
    let tests = [
        lifecycle::tests(),
        machine::tests(),
        cgroup::tests(),
        failures::tests(),
        hogs::tests(),
        killed::tests(),
        update::tests(),
    ];
    suite::main(Place::Kvm, Isolation::Vm, tests)
}
