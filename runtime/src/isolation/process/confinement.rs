//! What confines a container's first process, as `nacre state` reports it.

use crate::isolation::confinement::Confinement;

use super::found::HostContainer;

/// Returns it, if there is one that hasn't ended. What the container's `config.json` asks for is in
/// force before it is started.
pub(crate) fn confinement(found: &HostContainer<'_>) -> Vec<Confinement> {
    let init = found.process.init;
    let confined = init.and_then(|init| Confinement::of("init", init.pid));
    confined.into_iter().collect()
}
