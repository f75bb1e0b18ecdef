//! Bulk traffic arrives as it was sent, in packets that weren't split.

use std::fs;
use std::path::PathBuf;

use nacre_tests::Isolation::Vm;
use nacre_tests::{Bundle, Case, place};

use super::{Lan, another, detach, inside, remove};

nacre_tests::tests![much_both_ways, much_between_two];

/// Makes data that can't arrive by chance, as a file in the containers' root.
fn make_data(bundle: &Bundle) -> PathBuf {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // In the testbed two kernels are emulated.
    let words = if place::in_testbed() {
        1 << 17
    } else {
        1 << 20
    };
    let bytes: Vec<u8> = (0..words)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let path = bundle.rootfs().join("data");
    fs::write(&path, bytes).unwrap();
    path
}

/// Returns the numbers in `after` minus those in `before`, one per line.
fn differences(before: &str, after: &str) -> Vec<u64> {
    let read = |text: &str| -> Vec<u64> { text.lines().map(|n| n.parse().unwrap()).collect() };
    let pairs = read(after).into_iter().zip(read(before));
    pairs.map(|(after, before)| after - before).collect()
}

fn much_both_ways(case: &Case) {
    let lan = Lan::new(case);
    lan.add("a");
    lan.attach("a", "eth0", "one", 4);
    let bundle = lan
        .bundle("a")
        .annotation("dev.nacre.vm.cpus", "2")
        .annotation("dev.nacre.vm.memory", "512M")
        .args(["sleep", "1000"]);
    let data = make_data(&bundle);
    let data = data.to_str().unwrap();
    let _sends = lan.start(&["nc", "-ll", "-p", "90", "-e", "busybox", "cat", data]);
    let compares = format!("busybox cmp - {data} && echo same");
    let _receives = lan.start(&["nc", "-ll", "-p", "91", "-e", "sh", "-c", &compares]);
    case.detach(&bundle);
    if case.isolation() == Vm {
        let queues = inside(case, case.id(), "ls /sys/class/net/eth0/queues");
        assert_eq!(queues, "rx-0\nrx-1\ntx-0\ntx-1\n");
    }
    // Bytes and packets received; packets sent, and TCP segments sent, including retransmissions.
    let look = || {
        let shows = "cd /sys/class/net/eth0/statistics; cat rx_bytes rx_packets tx_packets
             awk '/^Tcp: [0-9]/ { print $12 + $13 }' /proc/net/snmp";
        inside(case, case.id(), shows)
    };
    let servers = "10.73.1.1 fd73:1::1 10.73.1.1 fd73:1::1";
    let ways = [
        ("rx", "nc $server 90 </dev/null | cmp - /data && echo same"),
        ("tx", "nc $server 91 </data"),
    ];
    for (way, script) in ways {
        let before = look();
        let script = format!("for server in {servers}; do ({script}) & done; wait");
        assert_eq!(
            inside(case, case.id(), &script),
            "same\n".repeat(4),
            "{way}"
        );
        let [bytes, came, went, segments] = differences(&before, &look())[..] else {
            panic!("not as many numbers as were asked for");
        };
        if way == "rx" {
            // A packet larger than the MTU was never split.
            let size = bytes / came.max(1);
            assert!(size > 1500, "{size} bytes a packet");
        } else {
            // How much is sent together depends on the speed; but some is.
            assert!(went < segments, "{segments} segments in {went} packets");
        }
    }
    case.remove_container();
}

fn much_between_two(case: &Case) {
    let lan = Lan::new(case);
    for (name, host) in [("a", 2), ("b", 3)] {
        lan.add(name);
        lan.attach(name, "eth0", "one", host);
    }
    let server =
        "nc -ll -p 90 -e cat /data & exec nc -ll -p 91 -e sh -c 'cmp - /data && echo same'";
    let server = lan.bundle("b").shell(server);
    make_data(&server);
    let other = another(case);
    detach(case, &other, &server);
    case.detach(&lan.bundle("a").args(["sleep", "1000"]));
    let script = "for server in 10.73.1.3 fd73:1::3; do
         until [ $(nc $server 90 </dev/null 2>/dev/null | head -c 1 | wc -c) = 1 ]
         do sleep 0.1; done
         nc $server 90 </dev/null | cmp - /data && echo same; nc $server 91 </data; done";
    assert_eq!(inside(case, case.id(), script), "same\n".repeat(4));
    remove(case, &other);
    case.remove_container();
}
