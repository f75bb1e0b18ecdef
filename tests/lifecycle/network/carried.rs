//! What a container's network namespace has, from the start or later.

use nacre_tests::Case;
use nacre_tests::network::has_all;
use serde_json::json;

use super::super::overlay::{DISK, overlay};
use super::{Lan, ask, inside};

nacre_tests::tests![
    all_of_an_interface,
    as_many_as_a_vm_has_room_for_with_many_processors: Vm,
    an_interface_of_a_hook,
    an_interface_before_the_start,
    several_interfaces_at_once,
    interfaces_that_come_and_go,
    more_interfaces_than_a_vm_has_room_for: Vm,
    what_changes_while_it_runs,
];

fn all_of_an_interface(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    lan.attach("a", "lan0", "one", 9);
    lan.shell(
        "ip -n a address add 10.73.1.200/32 dev lan0
         ip -n a route add 10.99.0.0/16 via 10.73.1.254 metric 77
         ip -n a route add unreachable 10.98.0.0/16
         ip -n a -6 route add fd99::/16 via fd73:1::254
         ip -n a neighbour add 10.73.1.77 lladdr 02:73:00:00:00:77 dev lan0 nud permanent
         ip -n a neighbour add fd73:1::77 lladdr 02:73:00:00:00:78 dev lan0 nud permanent",
    );
    let script = "cat /sys/class/net/lan0/address /sys/class/net/lan0/mtu
         ip -o address show dev lan0; ip route; ip -6 route; ip neigh show nud permanent";
    let output = case.run(&lan.bundle("a").shell(script)).ok();
    assert!(output.starts_with("02:73:00:00:01:09\n1400\n"), "{output}");
    let parts = [
        "inet 10.73.1.9/24 ",
        "inet 10.73.1.200/32 ",
        "inet6 fd73:1::9/64 scope global",
        // The address that the kernel made of the MAC address.
        "inet6 fe80::73:ff:fe00:109/64 scope link",
        "default via 10.73.1.1 dev lan0",
        "10.73.1.0/24 dev lan0",
        "10.99.0.0/16 via 10.73.1.254 dev lan0  metric 77",
        "unreachable 10.98.0.0/16",
        "default via fd73:1::1 dev lan0",
        "fd99::/16 via fd73:1::254 dev lan0",
        "10.73.1.77 dev lan0 lladdr 02:73:00:00:00:77 ",
        "fd73:1::77 dev lan0 lladdr 02:73:00:00:00:78 ",
    ];
    has_all(&output, &parts);
}

/// Each interface has a pair of queues for each processor, and whatever runs the VM must have room
/// for all of them.
fn as_many_as_a_vm_has_room_for_with_many_processors(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    let bundle = lan.server("a").annotation("dev.nacre.vm.cpus", "8");
    let answers = |server: &str| {
        let asks = format!("busybox nc -w 3 {server} 80 </dev/null 2>/dev/null || true");
        case.wait_for(server, || lan.shell(&asks) == "this is a\n");
    };
    lan.attach("a", "lan0", "one", 2);
    case.detach(&overlay(bundle, DISK));
    answers("fd73:1::2");
    for (interface, bridge, host, server) in [
        ("lan1", "two", 2, "fd73:2::2"),
        ("lan2", "one", 3, "fd73:1::3"),
    ] {
        lan.attach("a", interface, bridge, host);
        answers(server);
    }
    case.remove_container();
}

/// The namespace is made by nacre, as for some callers of CNI plugins.
fn an_interface_of_a_hook(case: &Case) {
    let lan = Lan::new(case);
    let _server = lan.start(&["nc", "-ll", "-p", "80", "-e", "echo", "of the bridge"]);
    let script = "PATH=$PATH:/usr/sbin:/sbin
         pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')
         ip link add hook-eth0 type veth peer name eth0 netns $pid
         ip link set hook-eth0 master one up
         nsenter --net=/proc/$pid/ns/net sh -ec '
         ip address add 10.73.1.4/24 dev eth0; ip link set eth0 up'";
    let bundle = case
        .busybox()
        .push(
            "/hooks/createRuntime",
            json!({ "path": "/bin/sh", "args": ["sh", "-ec", script] }),
        )
        .shell("ls /sys/class/net; exec nc -w 10 10.73.1.1 80 </dev/null");
    let mut command = case.nacre();
    command.args(["run", "--bundle"]).arg(bundle.write());
    command.arg(case.id());
    let outcome = case.spawn(lan.network.enter(&command)).finish();
    assert_eq!(outcome.ok(), "eth0\nlo\nof the bridge\n");
}

fn an_interface_before_the_start(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    let _server = lan.start(&["nc", "-ll", "-p", "80", "-e", "echo", "of the bridge"]);
    case.create(&lan.bundle("a").shell(
        "ip -o address show dev eth0; nc -w 10 10.73.1.1 80 </dev/null
         nc -w 10 fd73:1::1 80 </dev/null; sleep 1000",
    ));
    lan.attach("a", "eth0", "one", 4);
    assert_eq!(case.command(&["start", case.id()]).ok(), "");
    case.wait_for_output("of the bridge\nof the bridge\n");
    has_all(&case.output(), &["10.73.1.4/24", "fd73:1::4/64"]);
    case.remove_container();
}

fn several_interfaces_at_once(case: &Case) {
    let lan = Lan::new(case);
    for (namespace, cpus) in [("a", "1"), ("b", "2")] {
        lan.add(namespace);
        lan.attach(namespace, "eth0", "one", 4);
        lan.attach(namespace, "eth1", "two", 5);
        lan.attach(namespace, "eth2", "two", 6);
        let script = "ls /sys/class/net; nc -w 10 10.73.1.1 80 </dev/null
             nc -w 10 10.73.2.1 80 </dev/null";
        let bundle = lan.bundle(namespace).shell(script);
        let bundle = bundle.annotation("dev.nacre.vm.cpus", cpus);
        let _server = lan.start(&["nc", "-ll", "-p", "80", "-e", "echo", "of the bridge"]);
        let output = case.run(&bundle).ok();
        assert_eq!(
            output,
            "eth0\neth1\neth2\nlo\nof the bridge\nof the bridge\n"
        );
        lan.shell(&format!("ip netns delete {namespace}"));
    }
}

fn interfaces_that_come_and_go(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    lan.attach("a", "eth0", "one", 4);
    case.detach(&lan.server("a"));
    let has = |what: &str| {
        let script = "ip -o -4 address | sed 's/^[0-9]*: //; s/ brd.*//; s/  *inet//'";
        inside(case, case.id(), script).contains(what)
    };
    // This is more often than there are slots beyond the first.
    for host in 5..9 {
        lan.attach("a", "eth1", "two", host);
        case.wait_for("eth1", || has(&format!("eth1 10.73.2.{host}/24")));
        let answer = || ask(case, case.id(), "10.73.2.1", 80);
        let server = lan.start(&["nc", "-ll", "-p", "80", "-e", "echo", "of the bridge"]);
        case.wait_for("an answer", || answer() == "of the bridge\n");
        drop(server);
        lan.shell("ip -n a link delete eth1");
        case.wait_for("no eth1", || !has("eth1"));
        assert!(has("eth0 10.73.1.4/24"));
    }
    // A new interface takes the place of the first, with its name.
    lan.shell("ip -n a link delete eth0");
    lan.attach("a", "eth0", "two", 40);
    case.wait_for("another eth0", || has("eth0 10.73.2.40/24"));
    let answer = "busybox nc -w 3 10.73.2.40 80 </dev/null";
    assert_eq!(lan.shell(answer), "this is a\n");
    case.remove_container();
    assert!(!lan.shown("a").contains("ingress"));
}

fn more_interfaces_than_a_vm_has_room_for(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    let spare = if case.is_emulated() { 2 } else { 8 };
    case.detach(&lan.server("a"));
    for number in 0..spare + 2 {
        lan.attach("a", &format!("eth{number}"), "one", 10 + number);
    }
    let has = || inside(case, case.id(), "ls /sys/class/net");
    let room = spare as usize + "lo".lines().count();
    case.wait_for("all places taken", || has().lines().count() == room);
    assert!(has().starts_with("eth0\neth1\n"), "{}", has());
    // One that is removed makes room for one that waits.
    lan.shell("ip -n a link delete eth0");
    case.wait_for("another in its place", || {
        let has = has();
        has.lines().count() == room && !has.contains("eth0\n")
    });
    case.remove_container();
    let warning = format!("more interfaces than the {spare} that");
    let log = std::fs::read_to_string(case.log()).unwrap_or_default();
    assert!(log.contains(&warning), "{log}");
}

fn what_changes_while_it_runs(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    lan.attach("a", "eth0", "one", 4);
    case.detach(&lan.server("a"));
    let shows = "cat /sys/class/net/eth0/mtu; ip -o address show dev eth0; ip route";
    let now = || inside(case, case.id(), shows);
    has_all(&now(), &["10.73.1.4/24"]);
    lan.shell(
        "ip -n a address add 10.73.1.44/24 dev eth0; ip -n a route add 10.99.0.0/16 via 10.73.1.1
         ip -n a link set eth0 mtu 1300",
    );
    case.wait_for("all that came", || {
        let now = now();
        let parts = ["1300\n", "10.73.1.44/24", "10.99.0.0/16 via 10.73.1.1"];
        parts.iter().all(|part| now.contains(part))
    });
    lan.shell("ip -n a route delete 10.99.0.0/16; ip -n a address delete 10.73.1.44/24 dev eth0");
    case.wait_for("the end of what went", || {
        let now = now();
        !now.contains("10.73.1.44") && !now.contains("10.99.0.0")
    });
    has_all(&now(), &["10.73.1.4/24", "default via 10.73.1.1"]);
    // It has another name and MAC address.
    lan.shell(
        "ip -n a link set eth0 down; ip -n a link set eth0 name lan0 address 02:73:00:00:00:99
         ip -n a link set lan0 up; ip -n a route replace default via 10.73.1.1",
    );
    let shows = "ls /sys/class/net; cat /sys/class/net/lan0/address; ip -o address; ip route";
    case.wait_for("another name", || {
        let parts = [
            "lan0\nlo\n02:73:00:00:00:99\n",
            "10.73.1.4/24",
            "default via 10.73.1.1",
        ];
        let outcome = case.command(&["exec", case.id(), "sh", "-c", shows]);
        parts.iter().all(|part| outcome.text().contains(part))
    });
    let answer = "busybox nc -w 3 10.73.1.4 80 </dev/null";
    assert_eq!(lan.shell(answer), "this is a\n");
    case.remove_container();
}
