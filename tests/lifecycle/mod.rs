//! The life of a container, from bundle to exit status: what a caller sees in both modes.

mod cgroups;
mod console;
mod create;
mod cve;
mod cycles;
mod debian;
mod descriptors;
mod detached;
mod devices;
mod events;
mod exec;
mod failures;
mod files;
mod filesystem;
mod flags;
mod foreground;
mod hooks;
mod installed;
mod kernel_files;
mod kill;
mod killed;
mod list;
mod namespaces;
mod nested;
mod network;
mod overlay;
mod pause;
mod process;
mod signals;
pub(crate) mod status;
mod streams;
mod stressors;
mod systemd;
mod terminal;
mod update;
mod users;
mod wall;

use nacre_tests::Test;
use nacre_tests::suite::{on_any_hypervisor, on_any_hypervisor_but};

/// All tests here; each says if one mode only is meant.
pub(crate) fn tests() -> Vec<Test> {
    [
        status::tests(),
        streams::tests(),
        signals::tests(),
        terminal::tests(),
        on_any_hypervisor(process::tests()),
        on_any_hypervisor(namespaces::tests()),
        network::tests(),
        nested::tests(),
        files::tests(),
        filesystem::tests(),
        on_any_hypervisor(kernel_files::tests()),
        on_any_hypervisor(installed::tests()),
        overlay::tests(),
        on_any_hypervisor(users::tests()),
        on_any_hypervisor(devices::tests()),
        on_any_hypervisor(cgroups::tests()),
        detached::tests(),
        debian::tests(),
        on_any_hypervisor_but(&["in_the_root"], stressors::tests()),
        failures::tests(),
        on_any_hypervisor(exec::tests()),
        on_any_hypervisor_but(
            &["over_a_socket", "exec_in_the_foreground"],
            console::tests(),
        ),
        on_any_hypervisor(foreground::tests()),
        on_any_hypervisor(list::tests()),
        on_any_hypervisor(create::tests()),
        on_any_hypervisor(cve::tests()),
        on_any_hypervisor_but(&["with_an_interface"], cycles::tests()),
        on_any_hypervisor(flags::tests()),
        kill::tests(),
        on_any_hypervisor(killed::tests()),
        pause::tests(),
        on_any_hypervisor(update::tests()),
        on_any_hypervisor(events::tests()),
        on_any_hypervisor(hooks::tests()),
        systemd::tests(),
        wall::tests(),
        descriptors::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
