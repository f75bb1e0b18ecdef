//! The life of a container, from bundle to exit status: what a caller sees in both modes.

mod cgroups;
mod clock;
mod confinement;
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
mod file_rights;
mod files;
mod filesystem;
mod flags;
mod foreground;
mod hooks;
mod inherited;
mod inside;
mod installed;
mod kernel_files;
mod kill;
mod killed;
mod landlock;
mod limits;
mod list;
mod logs;
mod namespaces;
mod nested;
mod network;
mod overlay;
mod pause;
mod process;
mod rights;
mod seccomp;
mod signals;
mod starved;
pub(crate) mod status;
mod streams;
mod stressors;
mod systemd;
mod terminal;
mod top;
mod trees;
mod update;
mod users;
mod violations;
mod wall;

use nacre_tests::Test;
use nacre_tests::suite::{on_any_hypervisor, on_any_hypervisor_but};

/// Returns all tests here; a test for one mode only says so.
pub(crate) fn tests() -> Vec<Test> {
    let tests = [of_each_hypervisor(), with_representatives(), of_none()];
    tests.into_iter().flatten().collect()
}

/// Returns those in which each hypervisor has a part.
fn of_each_hypervisor() -> Vec<Test> {
    let tests = [
        network::tests(),
        clock::tests(),
        systemd::tests(),
        logs::tests(),
        rights::tests(),
        inside::tests(),
        landlock::tests(),
        violations::tests(),
        confinement::tests(),
        descriptors::tests(),
    ];
    tests.into_iter().flatten().collect()
}

/// Returns those that a few represent where KVM is emulated.
fn with_representatives() -> Vec<Test> {
    let tests = [
        on_any_hypervisor_but(&["the_workloads_status_is_the_commands"], status::tests()),
        on_any_hypervisor_but(
            &[
                "bytes_pass_unchanged",
                "twenty_megabytes_go_through_both_ways",
                "a_reader_that_leaves_ends_the_writer",
            ],
            streams::tests(),
        ),
        on_any_hypervisor_but(
            &["a_signal_before_the_workload_runs_isnt_fatal_to_the_cleanup"],
            signals::tests(),
        ),
        on_any_hypervisor_but(
            &[
                "a_guests_processor_shows_no_virtualization",
                "a_container_that_asks_runs_a_virtual_machine",
            ],
            nested::tests(),
        ),
        on_any_hypervisor_but(
            &[
                "what_programs_rely_on",
                "what_a_vm_has_no_request_for",
                "both_sides_write_through_mappings",
                "a_disk_made_of_a_file_is_kept",
            ],
            files::tests(),
        ),
        on_any_hypervisor_but(
            &[
                "a_written_root_is_seen_on_the_host",
                "files_behave_like_files",
            ],
            filesystem::tests(),
        ),
        on_any_hypervisor_but(
            &["writes_stay_in_the_guest", "a_disk_has_a_limit"],
            overlay::tests(),
        ),
        on_any_hypervisor_but(&["what_is_read_of_files"], limits::tests()),
        on_any_hypervisor_but(&["from_run_to_delete"], detached::tests()),
        on_any_hypervisor_but(&["bash"], debian::tests()),
        on_any_hypervisor_but(&["in_the_root"], stressors::tests()),
        on_any_hypervisor_but(&["a_memory_limit_too_small_to_start"], failures::tests()),
        on_any_hypervisor_but(
            &["over_a_socket", "exec_in_the_foreground"],
            console::tests(),
        ),
        on_any_hypervisor_but(&["with_an_interface"], cycles::tests()),
        on_any_hypervisor_but(
            &[
                "all_of_a_containers_processes",
                "one_whose_output_nobody_takes",
            ],
            kill::tests(),
        ),
        on_any_hypervisor_but(
            &[
                "a_paused_container_stands_still",
                "a_paused_container_can_be_killed",
                "a_container_frozen_from_outside_is_paused",
                "nobody_waits_for_long_for_a_guest_that_stands_still",
            ],
            pause::tests(),
        ),
        on_any_hypervisor_but(
            &[
                "nothing_of_the_host_is_in_reach",
                "the_sandbox_process_is_killed",
            ],
            wall::tests(),
        ),
    ];
    tests.into_iter().flatten().collect()
}

/// Returns those in which no hypervisor has a part.
fn of_none() -> Vec<Test> {
    let tests = [
        terminal::tests(),
        process::tests(),
        inherited::tests(),
        namespaces::tests(),
        file_rights::tests(),
        trees::tests(),
        kernel_files::tests(),
        installed::tests(),
        users::tests(),
        devices::tests(),
        cgroups::tests(),
        starved::tests(),
        exec::tests(),
        foreground::tests(),
        list::tests(),
        create::tests(),
        cve::tests(),
        flags::tests(),
        killed::tests(),
        update::tests(),
        events::tests(),
        top::tests(),
        hooks::tests(),
        seccomp::tests(),
    ];
    on_any_hypervisor(tests.into_iter().flatten().collect())
}
