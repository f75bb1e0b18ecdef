//! A limit on what a VM sends and receives.

use nacre_tests::Case;

use super::super::limits::{AMOUNT, RATE, takes_its_time};
use super::Lan;

nacre_tests::tests![what_is_sent: Vm, what_is_received: Vm];

fn limited(case: &Case, server: &str, script: &str) {
    let lan = Lan::new(case);
    lan.add("a");
    lan.attach("a", "eth0", "one", 4);
    let _server = lan.start(&["nc", "-ll", "-p", "90", "-e", "sh", "-c", server]);
    let bundle = lan
        .bundle("a")
        .annotation("dev.nacre.vm.network.bandwidth", RATE);
    let output = takes_its_time(case, case.nacre(), bundle, script);
    assert_eq!(output, format!("{AMOUNT}\n"));
}

fn what_is_sent(case: &Case) {
    let sends = format!("head -c {AMOUNT} /dev/zero | nc 10.73.1.1 90");
    limited(case, "wc -c", &sends);
}

fn what_is_received(case: &Case) {
    let sends = format!("head -c {AMOUNT} /dev/zero");
    limited(case, &sends, "nc 10.73.1.1 90 </dev/null | wc -c");
}
