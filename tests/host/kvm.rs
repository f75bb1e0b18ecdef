//! A KVM that can't run a guest.

use std::fs;
use std::time::{Duration, Instant};

use nacre_tests::Case;
use nacre_vmm::kvm;

nacre_tests::tests![a_kvm_that_cant_run_guests_is_refused_at_once];

fn a_kvm_that_cant_run_guests_is_refused_at_once(case: &Case) {
    let Err(why) = kvm::check() else {
        case.ignore("this host's KVM runs guests");
    };
    let kernel = case.directory().join("vmlinux");
    fs::write(&kernel, "never loaded").unwrap();
    let configuration = case.directory().join("config.toml");
    fs::write(
        &configuration,
        format!("[vm]\nkernel = \"{}\"\n", kernel.display()),
    )
    .unwrap();
    let bundle = case.busybox();
    let mut command = case.nacre_with(&configuration);
    command
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let begin = Instant::now();
    let outcome = case.spawn(command).finish();
    let took = begin.elapsed();
    let message = outcome.refused(1);
    // It doesn't wait for a guest, for which it would take 30 s to give up.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(message.contains(&why.to_string()), "{message}");
    assert!(message.contains("VT-x or AMD-V"), "what to do: {message}");
    assert!(
        message.contains("--hypervisor=qemu"),
        "the way out: {message}"
    );
}
