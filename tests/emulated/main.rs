//! Containers in microVMs that QEMU emulates: the tests of `vm`, on this host, whatever its KVM.

#[path = "../vm/cgroup.rs"]
mod cgroup;
#[path = "../vm/failures.rs"]
mod failures;
#[path = "../vm/killed.rs"]
mod killed;
#[path = "../lifecycle/mod.rs"]
mod lifecycle;
#[path = "../vm/machine.rs"]
mod machine;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use nacre_tests::{Isolation, fixtures, place, suite};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        if let Err(why) = place::emulated() {
            eprintln!("{why}");
            return ExitCode::FAILURE;
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
