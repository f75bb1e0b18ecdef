//! Which addresses a container can reach, and which it can't.

use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nacre_tests::network::has_all;
use nacre_tests::{Bundle, Case, fixtures};

use super::{Lan, another, ask, detach, in_namespace, remove};

nacre_tests::tests![
    two_on_a_bridge,
    two_networks,
    loopback_is_its_own,
    a_name_server,
];

fn two_on_a_bridge(case: &Case) {
    let lan = Lan::new(case);
    for (name, host) in [("a", 2), ("b", 3)] {
        lan.add(name);
        lan.attach(name, "eth0", "one", host);
    }
    let other = another(case);
    case.detach(&lan.server("a"));
    detach(case, &other, &lan.server("b"));
    for (of, server, says) in [
        (case.id(), "10.73.1.3", "this is b\n"),
        (case.id(), "fd73:1::3", "this is b\n"),
        (&other, "10.73.1.2", "this is a\n"),
        (&other, "fd73:1::2", "this is a\n"),
        // It reaches itself by the address that others know.
        (&other, "10.73.1.3", "this is b\n"),
    ] {
        case.wait_for(server, || ask(case, of, server, 80) == says);
    }
    remove(case, &other);
    case.remove_container();
}

fn two_networks(case: &Case) {
    let lan = Lan::new(case);
    for (name, bridge) in [("a", "one"), ("b", "two")] {
        lan.add(name);
        lan.attach(name, "eth0", bridge, 2);
    }
    let other = another(case);
    case.detach(&lan.server("a"));
    detach(case, &other, &lan.server("b"));
    // Each is reached from its own network.
    let from_bridge = |server: &str| {
        let script = format!("busybox nc -w 3 {server} 80 </dev/null 2>/dev/null || true");
        lan.shell(&script)
    };
    case.wait_for("a", || from_bridge("10.73.1.2") == "this is a\n");
    case.wait_for("b", || from_bridge("fd73:2::2") == "this is b\n");
    for server in ["10.73.2.2", "fd73:2::2"] {
        assert_eq!(ask(case, case.id(), server, 80), "");
    }
    assert_eq!(ask(case, &other, "10.73.1.2", 80), "");
    remove(case, &other);
    case.remove_container();
}

fn loopback_is_its_own(case: &Case) {
    let lan = Lan::new(case);
    let _server = lan.start(&["nc", "-ll", "-p", "70", "-e", "echo", "host"]);
    for server in ["127.0.0.1", "::1"] {
        let asks = format!("busybox nc -w 3 {server} 70 </dev/null || true");
        case.wait_for("the host's own", || lan.shell(&asks) == "host\n");
    }
    // One container without an interface, and one with its own, started beside the server.
    lan.add("a");
    lan.attach("a", "eth0", "one", 4);
    let bundle = case.busybox();
    let script = "ls /sys/class/net; nc -ll -p 71 -e echo own &
        i=0; until nc 127.0.0.1 71 </dev/null 2>/dev/null || [ $i = 100 ]
        do i=$((i + 1)); sleep 0.1; done
        nc -w 3 ::1 71 </dev/null
        for server in 127.0.0.1 ::1; do nc -w 3 $server 70 </dev/null 2>/dev/null; done; true";
    for (bundle, interfaces) in [(bundle, "lo\n"), (lan.bundle("a"), "eth0\nlo\n")] {
        let mut command = case.nacre();
        command.args(["run", "--bundle"]);
        command.arg(bundle.shell(script).write()).arg(case.id());
        let outcome = case.spawn(lan.network.enter(&command)).finish();
        assert_eq!(outcome.ok(), format!("{interfaces}own\nown\n"));
    }
}

/// Answers every query for an address of the Internet with 10.73.1.42, and others with nothing.
fn serve_names(socket: &UdpSocket, stop: &AtomicBool) {
    const QUESTION: usize = 12;
    while !stop.load(Ordering::Relaxed) {
        let mut datagram = [0; 512];
        let Ok((length, from)) = socket.recv_from(&mut datagram) else {
            continue;
        };
        // The name ends with an empty label; its type and class follow.
        let Some(name) = datagram[QUESTION..length]
            .iter()
            .position(|byte| *byte == 0)
        else {
            continue;
        };
        let question = &datagram[QUESTION..QUESTION + name + 5];
        let is_a = question[name + 1..name + 3] == [0, 1];
        let mut answer = datagram[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        answer.extend(question);
        if is_a {
            // The name above, its type and class, a minute, four bytes.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 73, 1, 42]);
        }
        // The client may be gone.
        let _ = socket.send_to(&answer, from);
    }
}

fn a_name_server(case: &Case) {
    let root = fixtures::debian().unwrap_or_else(|why| case.ignore(why));
    let lan = Lan::new(case);
    lan.add("a");
    lan.attach("a", "eth0", "one", 4);
    let file = case.directory().join("resolv.conf");
    fs::write(
        &file,
        "nameserver 10.73.1.1\noptions timeout:5 attempts:5\n",
    )
    .unwrap();
    let namespace = lan.network.named("a");
    let bundle = Bundle::read_only(case.directory(), root)
        .mount(
            "/etc/resolv.conf",
            "bind",
            file.to_str().unwrap(),
            &["bind", "ro"],
        )
        .args(["getent", "hosts", "web.test"]);
    let bundle = in_namespace(bundle, namespace.to_str().unwrap());
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        lan.network.spawn(scope, || {
            let socket = UdpSocket::bind("10.73.1.1:53").unwrap();
            let patience = Duration::from_millis(100);
            socket.set_read_timeout(Some(patience)).unwrap();
            serve_names(&socket, &stop);
        });
        let outcome = case.run(&bundle);
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    let output = outcome.ok();
    has_all(&output, &["10.73.1.42", "web.test"]);
}
