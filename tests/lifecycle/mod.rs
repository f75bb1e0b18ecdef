//! The life of a container, from bundle to exit status: what a caller sees in both modes.

mod cgroups;
mod debian;
mod detached;
mod devices;
mod failures;
mod filesystem;
mod namespaces;
mod process;
mod signals;
pub(crate) mod status;
mod streams;
mod terminal;

use nacre_tests::Test;

/// All tests here; each says if one mode only is meant.
pub(crate) fn tests() -> Vec<Test> {
    [
        status::tests(),
        streams::tests(),
        signals::tests(),
        terminal::tests(),
        process::tests(),
        namespaces::tests(),
        filesystem::tests(),
        devices::tests(),
        cgroups::tests(),
        detached::tests(),
        debian::tests(),
        failures::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
