//! Podman's networks, in a network namespace of the test's own.

use std::process::Command;

use nacre_tests::{Case, network};

use super::super::workload;
use super::Podman;

nacre_tests::tests![two_on_a_network, published_ports, an_interface_of_its_own];

/// Sends the same to everyone.
pub(super) const SERVER: &str = "exec nc -ll -p 80 -e echo of the server";
pub(super) const ANSWER: &str = "of the server\n";

impl Podman<'_> {
    /// Returns what a container on a network gets from a server, if it reaches it.
    #[track_caller]
    pub(super) fn ask(&self, network: &str, server: &str) -> Option<String> {
        let asks = ["nc", "-w", "3", server, "80"];
        workload::answer(&self.once(&["--network", network], &asks))
    }

    /// Does the same from where the networks' bridges are.
    pub(super) fn ask_from_outside(&self, server: &str, port: &str) -> String {
        let mut client = self.case.mark(Command::new("busybox"));
        client.args(["nc", "-w", "3", server, port]);
        self.case.spawn(self.inside(client)).finish().text()
    }

    #[track_caller]
    pub(super) fn create_network(&self, name: &str, subnet: &str, flags: &[&str]) {
        let words = ["network", "create", "--subnet", subnet];
        self.ok(&[&words, flags, &[name]].concat());
    }

    /// Removes everything, and a test's networks too.
    #[track_caller]
    pub(super) fn clear_networks(&self, names: &[&str]) {
        self.ok(&["rm", "--all", "--force", "--time", "0"]);
        for name in names {
            self.ok(&["network", "rm", name]);
        }
        self.clear();
    }
}

fn two_on_a_network(case: &Case) {
    let podman = Podman::networked(case);
    podman.create_network("one", "10.71.1.0/24", &[]);
    podman.create_network("two", "10.71.2.0/24", &[]);
    podman.detach(&["--network", "one:ip=10.71.1.9"], SERVER);
    let answer = Some(ANSWER.to_owned());
    case.wait_for("the server", || podman.ask("one", "10.71.1.9") == answer);
    // Podman's name server knows the name.
    assert_eq!(podman.ask("one", "c"), answer);
    assert_eq!(podman.ask("two", "c"), None);
    assert_eq!(podman.ask("none", "10.71.1.9"), None);
    podman.clear_networks(&["one", "two"]);
}

fn published_ports(case: &Case) {
    let podman = Podman::networked(case);
    podman.create_network("one", "10.71.1.0/24", &[]);
    podman.detach(&["--network", "one", "-p", "8080:80"], SERVER);
    case.wait_for("the server", || {
        podman.ask_from_outside("127.0.0.1", "8080") == ANSWER
    });
    podman.clear_networks(&["one"]);
}

fn an_interface_of_its_own(case: &Case) {
    let podman = Podman::networked(case);
    let flags = ["--ipv6", "--subnet", "fd71::/64"];
    podman.create_network("one", "10.71.1.0/24", &flags);
    let network = "one:ip=10.71.1.9,ip=fd71::9,mac=02:71:00:00:00:09";
    let script = "ip -o addr show dev eth0; ip route; cat /sys/class/net/eth0/mtu; hostname -i";
    let output = podman.once(&["--network", network], &["sh", "-c", script]);
    let output = output.expect(0);
    let parts = [
        "10.71.1.9/24",
        "fd71::9/64",
        "default via 10.71.1.1 dev eth0",
        "\n1500\n",
        "\n10.71.1.9",
    ];
    network::has_all(&output, &parts);
    let shows = ["cat", "/sys/class/net/eth0/address"];
    let output = podman.once(&["--network", network], &shows).expect(0);
    assert_eq!(output, "02:71:00:00:00:09\n");
    podman.clear_networks(&["one"]);
}
