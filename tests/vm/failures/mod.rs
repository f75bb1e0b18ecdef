//! Failures that need a VM, or a KVM that can run one.

mod guest;
mod host;
mod start;

use nacre_tests::{Case, Test};
use serde_json::Value;

/// Returns all tests here.
pub(crate) fn tests() -> Vec<Test> {
    let tests = [start::tests(), guest::tests(), host::tests()];
    tests.into_iter().flatten().collect()
}

/// Skips the test if it doesn't use QEMU.
fn needs_qemu(case: &Case) {
    if !case.is_emulated() {
        case.ignore("these VMs aren't emulated");
    }
}

/// Skips the test if it doesn't use KVM.
fn needs_kvm(case: &Case) {
    if case.is_emulated() {
        case.ignore("these VMs are emulated");
    }
}

/// Waits for the end of a container, and returns what its state says about it. Nothing is left of
/// it when it has been deleted.
#[track_caller]
fn failure(case: &Case) -> String {
    case.wait_for_status("stopped");
    let state = case.command(&["state", case.id()]).ok();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
    let failure = state["failure"].as_str();
    failure.unwrap_or_else(|| panic!("{state}")).to_owned()
}
