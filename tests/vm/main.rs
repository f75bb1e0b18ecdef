//! Containers in microVMs.

// A line of a test, cut in two by what it prints, has no outcome for tests/lane.
#![deny(clippy::print_stdout)]

mod cgroup;
#[path = "../clients/mod.rs"]
mod clients;
mod compare;
mod failures;
mod hogs;
mod hostile;
mod killed;
#[path = "../lifecycle/mod.rs"]
mod lifecycle;
mod machine;
mod parts;
mod refused;
mod rootless;
mod update;

use std::process::ExitCode;

use nacre_tests::place::Place;
use nacre_tests::suite::{self, on_any_hypervisor, on_any_hypervisor_but};
use nacre_tests::{Isolation, Test};

/// Returns a few of the clients' tests, which are all run with emulated VMs: these show that KVM
/// makes no difference. In the testbed each command takes long.
fn a_few_of_clients() -> Vec<Test> {
    let few = |test: &Test| match test.name {
        "run_and_its_exit_status" => test.module.ends_with("containerd"),
        "a_volume_exec_and_stop" => true,
        _ => test.module.ends_with("podman::few"),
    };
    clients::tests().into_iter().filter(few).collect()
}

/// The failures that a VM on KVM has a way of its own to see.
const OF_KVM: &[&str] = &[
    "a_guest_that_never_says_hello",
    "a_guest_that_panics",
    "a_guest_whose_agent_ends",
    "a_guest_that_reboots",
    "kvm_without_permission",
    "kvm_missing",
    "the_sandbox_is_killed",
    "a_panic_is_in_the_state",
    "the_host_runs_out_of_memory",
    "the_guest_runs_out_of_memory",
    "a_frozen_guest",
];

fn main() -> ExitCode {
    let tests = [
        lifecycle::tests(),
        on_any_hypervisor_but(
            &[
                "its_kernel_is_its_own",
                "as_many_cpus_as_asked_for",
                "as_much_memory_as_asked_for",
                "memory_above_the_hole_can_be_used",
                "its_kernel_log_in_a_file",
            ],
            machine::tests(),
        ),
        cgroup::tests(),
        on_any_hypervisor_but(&["both_modes_are_measured_and_compared"], compare::tests()),
        on_any_hypervisor_but(OF_KVM, failures::tests()),
        hogs::tests(),
        hostile::tests(),
        on_any_hypervisor_but(&["nacre_run_is_killed"], killed::tests()),
        on_any_hypervisor_but(&["the_monitor_is_killed"], parts::tests()),
        on_any_hypervisor(refused::tests()),
        on_any_hypervisor_but(&["a_life", "its_processes_are_nobodys"], rootless::tests()),
        update::tests(),
        a_few_of_clients(),
    ];
    suite::main(Place::Kvm, Isolation::Vm, tests)
}
