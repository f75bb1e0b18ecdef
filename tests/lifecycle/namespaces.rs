//! Namespaces, and the settings in them.

use std::fs;
use std::process::Command;

use nacre_tests::{Case, Isolation};
use serde_json::json;

nacre_tests::tests![
    each_namespace_is_its_own,
    the_namespaces_outside_without,
    processes_outside_arent_seen,
    host_and_domain_name,
    sysctls,
    nothing_is_set_in_the_hosts_namespaces,
    the_network_has_a_loopback,
];

const KINDS: [&str; 4] = ["ipc", "uts", "pid", "cgroup"];

const SHOW: &str = "for n in ipc uts pid cgroup; do readlink /proc/self/ns/$n; done";

/// Returns what [`SHOW`] prints outside the container: on the host, or in the guest, where the
/// namespaces are the kernel's initial ones, which have fixed numbers (`include/linux/proc_ns.h`).
fn outside(case: &Case) -> Vec<String> {
    let of_the_host = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    match case.isolation() {
        Isolation::Process => KINDS.map(of_the_host).to_vec(),
        Isolation::Vm => KINDS
            .into_iter()
            .zip([0xEFFF_FFFF_u32, 0xEFFF_FFFE, 0xEFFF_FFFC, 0xEFFF_FFFB])
            .map(|(kind, number)| format!("{kind}:[{number}]"))
            .collect(),
    }
}

fn each_namespace_is_its_own(case: &Case) {
    let output = case.run(&case.busybox().shell(SHOW)).ok();
    assert_eq!(output.lines().count(), KINDS.len(), "{output}");
    for ((inside, outside), kind) in output.lines().zip(outside(case)).zip(KINDS) {
        assert_ne!(inside, outside);
        assert!(inside.starts_with(&format!("{kind}:[")), "{output}");
    }
}

fn the_namespaces_outside_without(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/namespaces",
            json!([{ "type": "mount" }, { "type": "network" }]),
        )
        .remove("/hostname")
        .shell(SHOW);
    let output = case.run(&bundle).ok();
    assert_eq!(output.lines().collect::<Vec<_>>(), outside(case));
}

fn processes_outside_arent_seen(case: &Case) {
    let bundle = case.busybox().shell("echo $$; ls -d /proc/[0-9]*");
    // The shell is alone when it expands the pattern.
    assert_eq!(case.run(&bundle).ok(), "1\n/proc/1\n");
}

fn host_and_domain_name(case: &Case) {
    let own = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let before = own();
    let bundle = case
        .busybox()
        .set("/hostname", "some-host")
        .set("/domainname", "some.domain")
        .shell("hostname; cat /proc/sys/kernel/domainname");
    assert_eq!(case.run(&bundle).ok(), "some-host\nsome.domain\n");
    assert_eq!(own(), before);
}

fn sysctls(case: &Case) {
    let files = ["net/ipv4/ip_forward", "kernel/msgmax", "fs/mqueue/msg_max"];
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
    let before = files.map(read);
    let bundle = case
        .busybox()
        .set(
            "/linux/sysctl",
            json!({
                "net.ipv4.ip_forward": "1",
                "net.ipv4.ip_local_port_range": "20000 30000",
                "kernel.shm_rmid_forced": "1",
                "kernel.msgmax": "65536",
                "fs/mqueue/msg_max": "17",
                "kernel.domainname": "by.sysctl",
            }),
        )
        .shell(
            "cd /proc/sys; cat net/ipv4/ip_forward net/ipv4/ip_local_port_range \
             kernel/shm_rmid_forced kernel/msgmax fs/mqueue/msg_max kernel/domainname",
        );
    assert_eq!(
        case.run(&bundle).ok(),
        "1\n20000\t30000\n1\n65536\n17\nby.sysctl\n"
    );
    assert_eq!(files.map(read), before);
}

/// Namespaces by path that are the host's: the caller's, and the first process's where the caller
/// has others. If it were allowed, the host's files would have other values afterwards.
fn nothing_is_set_in_the_hosts_namespaces(case: &Case) {
    let file = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
    for (kind, namespace, pointer, value, name) in [
        (
            "network",
            "net",
            "/linux/sysctl",
            json!({"net.ipv4.ip_default_ttl": "65"}),
            "linux.sysctl.net.ipv4.ip_default_ttl",
        ),
        (
            "ipc",
            "ipc",
            "/linux/sysctl",
            json!({"kernel.msgmax": "65536"}),
            "linux.sysctl.kernel.msgmax",
        ),
        ("uts", "uts", "/hostname", json!("another"), "hostname"),
        ("uts", "uts", "/domainname", json!("another"), "domainname"),
    ] {
        let watched = [
            "net/ipv4/ip_default_ttl",
            "kernel/msgmax",
            "kernel/hostname",
            "kernel/domainname",
        ];
        let before = watched.map(file);
        let mut bundle = case.busybox().set(pointer, value);
        if pointer != "/hostname" {
            bundle = bundle.remove("/hostname");
        }
        let namespaces: Vec<_> = ["pid", "network", "ipc", "uts", "mount"]
            .into_iter()
            .map(|other| {
                if other == kind {
                    json!({"type": kind, "path": format!("/proc/1/ns/{namespace}")})
                } else {
                    json!({"type": other})
                }
            })
            .collect();
        let bundle = bundle.set("/linux/namespaces", namespaces);
        // The first process, which not everybody may inspect, is one of ours here.
        for prefix in ["", "unshare --net --ipc --uts --"] {
            let mut command = case.mark(Command::new("unshare"));
            let script = format!("{prefix} \"$@\"; exit $?");
            let nacre = case.nacre();
            command
                .args([
                    "--pid",
                    "--fork",
                    "--mount-proc",
                    "--",
                    "sh",
                    "-c",
                    &script,
                    "sh",
                ])
                .arg(nacre.get_program())
                .args(nacre.get_args())
                .args(["run", "--bundle"])
                .arg(bundle.write())
                .arg(case.id());
            let outcome = case.spawn(command).finish();
            assert_eq!(outcome.status(), Some(1), "{outcome:?}");
            let expected = match case.isolation() {
                Isolation::Process => format!("{name}: it isn't allowed in the host's {namespace}"),
                Isolation::Vm => "linux.namespaces: ".into(),
            };
            assert!(outcome.stderr.contains(&expected), "{outcome:?}");
            assert_eq!(watched.map(file), before);
        }
    }
}

fn the_network_has_a_loopback(case: &Case) {
    let bundle = case.busybox().shell(
        "ls /sys/class/net
         nc -l -p 7000 -e echo hello & i=0
         until nc 127.0.0.1 7000 </dev/null 2>/dev/null || [ $i = 100 ]
         do i=$((i + 1)); sleep 0.1; done",
    );
    assert_eq!(case.run(&bundle).ok(), "lo\nhello\n");
}
