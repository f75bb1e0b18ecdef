//! Containers in microVMs, from bundle to exit status.

mod cgroups;
mod debian;
mod detached;
mod devices;
mod elf;
mod failures;
mod filesystem;
mod killed;
mod machine;
mod namespaces;
mod process;
mod signals;
mod status;
mod streams;
mod terminal;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use nacre_tests::{fixtures, place, suite};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        if let Some(code) = place::elsewhere() {
            return code;
        }
        fixtures::mount_all();
    }
    let tests = [
        status::tests(),
        streams::tests(),
        signals::tests(),
        terminal::tests(),
        process::tests(),
        namespaces::tests(),
        filesystem::tests(),
        devices::tests(),
        cgroups::tests(),
        machine::tests(),
        detached::tests(),
        debian::tests(),
        failures::tests(),
        killed::tests(),
    ];
    suite::run(&arguments, tests.into_iter().flatten().collect())
}
