//! Namespaces, and what is set in them.

use nacre_tests::Case;
use serde_json::json;

nacre_tests::tests![
    each_namespace_is_its_own,
    the_guests_namespaces_without,
    processes_outside_arent_seen,
    host_and_domain_name,
    sysctls,
    the_network_has_a_loopback,
];

/// The numbers of the first namespaces of a kernel (`include/linux/proc_ns.h`).
const INITIAL: [(&str, u32); 4] = [
    ("ipc", 0xEFFF_FFFF),
    ("uts", 0xEFFF_FFFE),
    ("pid", 0xEFFF_FFFC),
    ("cgroup", 0xEFFF_FFFB),
];

const SHOW: &str = "for n in ipc uts pid cgroup; do readlink /proc/self/ns/$n; done";

fn each_namespace_is_its_own(case: &Case) {
    let output = case.run(&case.busybox().shell(SHOW)).ok();
    assert_eq!(output.lines().count(), INITIAL.len(), "{output}");
    for (name, number) in INITIAL {
        assert!(!output.contains(&format!("{name}:[{number}]")), "{output}");
        assert!(output.contains(&format!("{name}:[")), "{output}");
    }
}

fn the_guests_namespaces_without(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/namespaces",
            json!([{ "type": "mount" }, { "type": "network" }]),
        )
        .remove("/hostname")
        .shell(SHOW);
    let expected: String = INITIAL
        .iter()
        .map(|(name, number)| format!("{name}:[{number}]\n"))
        .collect();
    assert_eq!(case.run(&bundle).ok(), expected);
}

fn processes_outside_arent_seen(case: &Case) {
    let bundle = case.busybox().shell("echo $$; ls -d /proc/[0-9]*");
    // The shell is alone when it expands the pattern.
    assert_eq!(case.run(&bundle).ok(), "1\n/proc/1\n");
}

fn host_and_domain_name(case: &Case) {
    let bundle = case
        .busybox()
        .set("/hostname", "some-host")
        .set("/domainname", "some.domain")
        .shell("hostname; cat /proc/sys/kernel/domainname");
    assert_eq!(case.run(&bundle).ok(), "some-host\nsome.domain\n");
}

fn sysctls(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/sysctl",
            json!({
                "net.ipv4.ip_forward": "1",
                "net.ipv4.ip_local_port_range": "20000 30000",
                "kernel.shm_rmid_forced": "1",
            }),
        )
        .shell(
            "cd /proc/sys; cat net/ipv4/ip_forward net/ipv4/ip_local_port_range \
             kernel/shm_rmid_forced",
        );
    assert_eq!(case.run(&bundle).ok(), "1\n20000\t30000\n1\n");
}

fn the_network_has_a_loopback(case: &Case) {
    let bundle = case.busybox().shell(
        "ls /sys/class/net
         nc -l -p 7000 >/tmp/heard & sleep 0.3
         echo hello | nc 127.0.0.1 7000; wait; cat /tmp/heard",
    );
    assert_eq!(case.run(&bundle).ok(), "lo\nhello\n");
}
