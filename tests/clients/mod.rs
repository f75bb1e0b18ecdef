//! Podman, containerd and Docker with nacre as their runtime, in both isolations.

mod containerd;
mod docker;
mod image;
mod podman;
mod workload;

use nacre_tests::Test;

/// All tests here; each says if one isolation only is meant.
pub(crate) fn tests() -> Vec<Test> {
    [podman::tests(), containerd::tests(), docker::tests()]
        .into_iter()
        .flatten()
        .collect()
}
