//! Podman, containerd and Docker with nacre as their runtime, in both isolations.

mod containerd;
mod docker;
mod image;
mod podman;
mod workload;

use nacre_tests::Test;

/// Returns all tests here; a test for one isolation only says so.
pub(crate) fn tests() -> Vec<Test> {
    [podman::tests(), containerd::tests(), docker::tests()]
        .into_iter()
        .flatten()
        .collect()
}
