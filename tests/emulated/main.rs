//! Containers in microVMs that QEMU emulates: the tests of `vm`, on this host, even if it has KVM.

// A line of a test, cut in two by what it prints, has no outcome for tests/lane.
#![deny(clippy::print_stdout)]

#[path = "../vm/cgroup.rs"]
mod cgroup;
#[path = "../clients/mod.rs"]
mod clients;
#[path = "../vm/compare.rs"]
mod compare;
#[path = "../vm/failures/mod.rs"]
mod failures;
#[path = "../vm/hogs.rs"]
mod hogs;
#[path = "../vm/hostile/mod.rs"]
mod hostile;
#[path = "../vm/killed.rs"]
mod killed;
#[path = "../lifecycle/mod.rs"]
mod lifecycle;
#[path = "../vm/machine.rs"]
mod machine;
#[path = "../vm/parts.rs"]
mod parts;
#[path = "../vm/refused.rs"]
mod refused;
#[path = "../vm/rootless.rs"]
mod rootless;
mod slow;
#[path = "../vm/update.rs"]
mod update;

use std::process::ExitCode;

use nacre_tests::place::Place;
use nacre_tests::{Isolation, suite};

fn main() -> ExitCode {
    let tests = [
        lifecycle::tests(),
        machine::tests(),
        cgroup::tests(),
        compare::tests(),
        failures::tests(),
        hogs::tests(),
        hostile::tests(),
        killed::tests(),
        parts::tests(),
        refused::tests(),
        rootless::tests(),
        slow::tests(),
        update::tests(),
        clients::tests(),
    ];
    suite::main(Place::Emulated, Isolation::Vm, tests)
}
