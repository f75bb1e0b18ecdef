//! Limits on what a VM does with the host's devices.
//!
//! The tests measure on the host's clock how long a guest takes for an amount that it can't have in
//! less time. How busy the host is doesn't matter: it only makes that longer.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use nacre_tests::{Bundle, Case};

nacre_tests::tests![
    what_is_read_of_files: Vm,
    requests_to_files: Vm,
];

/// How much is allowed each second and at once, and how much the tests move. For the rest of it one
/// needs three seconds.
pub(super) const RATE: &str = "1M";
pub(super) const AMOUNT: usize = 4 << 20;
const LEAST: Duration = Duration::from_secs(3);

/// Runs a container with a script that moves that much, and checks how long the script takes from
/// a line that it is given until it ends. Returns what it writes.
#[track_caller]
pub(super) fn takes_its_time(
    case: &Case,
    mut nacre: Command,
    bundle: Bundle,
    script: &str,
) -> String {
    let bundle = bundle.shell(&format!("echo ready; read -r _; {script}"));
    nacre
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let mut container = case.spawn(nacre);
    container.wait_for_line("ready");
    let begin = Instant::now();
    writeln!(container.stdin.as_mut().unwrap()).unwrap();
    let output = container.finish().ok();
    let taken = begin.elapsed();
    assert!(taken >= LEAST, "{taken:?} for {script}: {output}");
    output
}

fn what_is_read_of_files(case: &Case) {
    let bundle = case
        .busybox()
        .annotation("dev.nacre.vm.files.bandwidth", RATE);
    fs::write(bundle.rootfs().join("data"), vec![7; AMOUNT]).unwrap();
    let output = takes_its_time(case, case.nacre(), bundle, "wc -c </data");
    assert_eq!(output, format!("{AMOUNT}\n"));
}

fn requests_to_files(case: &Case) {
    let bundle = case
        .busybox()
        .annotation("dev.nacre.vm.files.operations", "200");
    let script = "n=0; while [ $n -lt 800 ]; do [ -e /missing$n ] && echo found; n=$((n + 1)); done
        echo $n";
    assert_eq!(takes_its_time(case, case.nacre(), bundle, script), "800\n");
}
