//! The namespace itself: which one it may be, and what is left in it.

use std::fs;

use nacre_tests::Case;
use nacre_tests::Isolation::Vm;
use nacre_tests::network::has_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{Lan, another, detach, in_namespace, remove};

nacre_tests::tests![
    nothing_stays_in_the_namespace,
    what_a_kill_leaves_is_in_nobodys_way,
    two_in_one_namespace,
    no_ethernet: Vm,
    the_hosts_network: Vm,
    a_path_that_is_no_namespace,
];

fn nothing_stays_in_the_namespace(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    lan.attach("a", "eth0", "one", 4);
    let before = lan.shown("a");
    let ends: [fn(&Case, Pid); 3] = [
        |case, _| {
            case.command(&["kill", case.id(), "KILL"]).ok();
            case.wait_for_status("stopped");
        },
        // The namespace is removed while the container runs.
        |_, _| (),
        |case, pid| {
            kill(pid, Signal::SIGKILL).unwrap();
            case.wait_for_status("stopped");
        },
    ];
    for end in ends {
        let pid = case.detach(&lan.server("a"));
        if case.isolation() == Vm {
            has_all(&lan.shown("a"), &["nacre-0", "ingress", "mirred"]);
        }
        end(case, pid);
        case.remove_container();
        assert_eq!(lan.shown("a"), before);
    }
}

fn what_a_kill_leaves_is_in_nobodys_way(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    lan.attach("a", "eth0", "one", 4);
    let before = lan.shown("a");
    let pid = case.detach(&lan.server("a"));
    kill(pid, Signal::SIGKILL).unwrap();
    case.wait_for_status("stopped");
    // Its successor comes before it is removed, and stays afterwards.
    let other = another(case);
    detach(case, &other, &lan.server("a"));
    case.remove_container();
    let asks = "busybox nc -w 3 10.73.1.4 80 </dev/null || true";
    case.wait_for("the successor", || lan.shell(asks) == "this is a\n");
    remove(case, &other);
    assert_eq!(lan.shown("a"), before);
}

fn two_in_one_namespace(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    lan.attach("a", "eth0", "one", 4);
    case.detach(&lan.server("a"));
    let mut command = case.nacre();
    let bundle = lan.bundle("a").args(["nc", "127.0.0.1", "80"]);
    command.args(["run", "--bundle"]).arg(bundle.write());
    command.arg(another(case));
    let outcome = case.spawn(command).finish();
    if case.isolation() == Vm {
        has_all(&outcome.refused(1), &["\"eth0\"", "another VM"]);
    } else {
        assert_eq!(outcome.ok(), "this is a\n");
    }
    // The first container isn't affected.
    let asks = "busybox nc -w 3 10.73.1.4 80 </dev/null || true";
    assert_eq!(lan.shell(asks), "this is a\n");
    case.remove_container();
}

fn no_ethernet(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    lan.shell("ip -n a tuntap add mode tun name tun7; ip -n a link set tun7 up");
    let message = case.run(&lan.bundle("a")).refused(1);
    has_all(&message, &["\"tun7\"", "Ethernet"]);
    assert!(!lan.shown("a").contains("nacre"));
}

fn the_hosts_network(case: &Case) {
    let others = ["pid", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
    let without = case.busybox().set("/linux/namespaces", others.to_vec());
    has_all(
        &case.run(&without).refused(1),
        &["linux.namespaces", "host"],
    );
    let of_the_tests = format!("/proc/{}/ns/net", std::process::id());
    for path in ["/proc/self/ns/net", &of_the_tests] {
        let bundle = in_namespace(case.busybox(), path);
        let message = case.run(&bundle).refused(1);
        has_all(&message, &["linux.namespaces", path, "host's own"]);
    }
    // If this process is in a container, it may not even inspect this namespace.
    let path = "/proc/1/ns/net";
    let message = case.run(&in_namespace(case.busybox(), path)).refused(1);
    has_all(&message, &["linux.namespaces", path]);
    // The namespace that nacre is in counts as the host's, whichever it is.
    let lan = Lan::new(case);
    let mut command = case.nacre();
    let bundle = in_namespace(case.busybox(), "/proc/self/ns/net");
    command.args(["run", "--bundle"]).arg(bundle.write());
    command.arg(case.id());
    let outcome = case.spawn(lan.network.enter(&command)).finish();
    has_all(&outcome.refused(1), &["host's own"]);
    assert_eq!(lan.shell("tc qdisc | grep ingress || true"), "");
}

fn a_path_that_is_no_namespace(case: &Case) {
    let file = case.directory().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.to_str().unwrap(), "/proc/self/ns/pid", "/no/such"] {
        let bundle = in_namespace(case.busybox(), path);
        case.run(&bundle).refused_somehow();
    }
}
