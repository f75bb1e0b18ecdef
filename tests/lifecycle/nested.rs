//! Virtual machines in a VM's container: only where they were asked for.

use std::fs;

use nacre_tests::{Bundle, Case};
use serde_json::json;

use super::files::compile;

nacre_tests::tests![
    a_guests_processor_shows_no_virtualization: Vm,
    a_container_that_asks_runs_a_virtual_machine: Vm,
    the_configuration_file_asks_for_all: Vm,
    what_the_configuration_file_rules_out_is_refused: Vm,
    dev_kvm_is_refused_where_nobody_asked: Vm,
];

const NESTED: &str = "dev.nacre.vm.nested";

/// Counts processors with VMX or SVM, and prints whether there is a KVM.
const LOOK: &str = "grep -cwE 'flags.*(vmx|svm)' /proc/cpuinfo; grep -w kvm /proc/misc";

/// Adds `/dev/kvm`, as engines do for `--device /dev/kvm`.
fn with_kvm(bundle: Bundle) -> Bundle {
    let rule = json!({ "allow": true, "type": "c", "major": 10, "minor": 232, "access": "rwm" });
    bundle
        .push(
            "/linux/devices",
            json!({ "path": "/dev/kvm", "type": "c", "major": 10, "minor": 232, "fileMode": 0o666 }),
        )
        .push("/linux/resources/devices", rule)
}

/// Sets `nested` in the configuration file.
fn configure(case: &Case, nested: bool) {
    let text = fs::read_to_string(case.configuration()).unwrap();
    fs::write(case.configuration(), format!("{text}nested = {nested}\n")).unwrap();
}

fn a_guests_processor_shows_no_virtualization(case: &Case) {
    // There are none by default, nor where the annotation says no.
    for bundle in [case.busybox(), case.busybox().annotation(NESTED, "false")] {
        let outcome = case.run(&bundle.shell(LOOK));
        assert_eq!(outcome.text(), "0\n", "{outcome:?}");
    }
}

fn a_container_that_asks_runs_a_virtual_machine(case: &Case) {
    let program = compile(case, "kvm", include_str!("files/kvm.c"));
    let bundle = with_kvm(case.busybox())
        .annotation(NESTED, "true")
        .mount("/mnt", "bind", program.to_str().unwrap(), &["rbind"])
        .args(["/mnt/kvm"]);
    assert_eq!(case.run(&bundle).ok(), "port 0x10: O\nhalted\n");
    // Without the device there is no right to it either.
    let bundle = case
        .busybox()
        .annotation(NESTED, "true")
        .set("/process/capabilities/bounding", json!(["CAP_MKNOD"]))
        .set("/process/capabilities/effective", json!(["CAP_MKNOD"]))
        .set("/process/capabilities/permitted", json!(["CAP_MKNOD"]))
        .shell("ls /dev/kvm; mknod /dev/kvm c 10 232 && : </dev/kvm");
    let outcome = case.run(&bundle);
    let refused = "Operation not permitted";
    assert!(outcome.stderr.contains(refused), "{outcome:?}");
}

fn the_configuration_file_asks_for_all(case: &Case) {
    configure(case, true);
    let output = case.run(&case.busybox().shell(LOOK)).ok();
    assert_eq!(output, "1\n232 kvm\n");
    let less = case.busybox().annotation(NESTED, "false").shell(LOOK);
    assert_eq!(case.run(&less).text(), "0\n");
}

fn what_the_configuration_file_rules_out_is_refused(case: &Case) {
    configure(case, false);
    let bundle = case.busybox().annotation(NESTED, "true").shell(LOOK);
    let message = case.run(&bundle).refused(1);
    assert!(
        message.contains("annotations.dev.nacre.vm.nested"),
        "{message}"
    );
    assert!(message.contains("nested = false"), "{message}");
    assert_eq!(case.run(&case.busybox().shell(LOOK)).text(), "0\n");
}

fn dev_kvm_is_refused_where_nobody_asked(case: &Case) {
    let message = case.run(&with_kvm(case.busybox())).refused(1);
    assert!(
        message.starts_with("linux.devices[0]: /dev/kvm"),
        "{message}"
    );
    assert!(message.contains(NESTED), "{message}");
}
