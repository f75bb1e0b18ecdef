//! Podman's networks by CNI's plugins, in a network namespace of the test's own.

use std::fs;

use nacre_tests::{Case, network};

use super::Podman;
use super::network::{ANSWER, SERVER};

nacre_tests::tests![
    two_on_a_network,
    an_interface_of_its_own,
    connected_while_it_runs,
];

/// The option that separates networks: otherwise the packet filter routes between all of them.
const APART: [&str; 2] = ["--opt", "isolate=true"];

impl<'a> Podman<'a> {
    /// Sets up Podman in a network namespace of its own, with networks that CNI's plugins make.
    fn with_cni(case: &'a Case) -> Self {
        network::plugins(case);
        case.needs("iptables", "iptables");
        let podman = Self::networked(case);
        // Addresses in use are kept here, whatever Podman is told.
        podman.shell("mkdir -p /var/lib/cni; mount -t tmpfs tmpfs /var/lib/cni");
        let file = case.directory().join("containers.conf");
        let configuration = fs::read_to_string(&file).unwrap();
        fs::write(&file, configuration.replace("\"netavark\"", "\"cni\"")).unwrap();
        let backend = podman.run(&["info", "--format", "{{.Host.NetworkBackend}}"]);
        if backend.text() != "cni\n" {
            case.ignore(&format!(
                "this Podman has no CNI: {}",
                backend.stderr.trim()
            ));
        }
        podman
    }

    /// Runs a script where the networks are.
    #[track_caller]
    fn shell(&self, script: &str) {
        self.network.as_ref().unwrap().shell(self.case, script);
    }
}

fn two_on_a_network(case: &Case) {
    let podman = Podman::with_cni(case);
    podman.create_network("one", "10.72.1.0/24", &APART);
    podman.create_network("two", "10.72.2.0/24", &APART);
    podman.detach(&["--network", "one:ip=10.72.1.9", "-p", "8080:80"], SERVER);
    let answer = Some(ANSWER.to_owned());
    case.wait_for("the server", || podman.ask("one", "10.72.1.9") == answer);
    assert_eq!(podman.ask("two", "10.72.1.9"), None);
    assert_eq!(podman.ask("none", "10.72.1.9"), None);
    for server in ["127.0.0.1", "10.72.1.1"] {
        assert_eq!(podman.ask_from_outside(server, "8080"), ANSWER);
    }
    podman.clear_networks(&["one", "two"]);
}

fn an_interface_of_its_own(case: &Case) {
    let podman = Podman::with_cni(case);
    let flags = ["--ipv6", "--subnet", "fd72::/64", "--opt", "mtu=1400"];
    podman.create_network("one", "10.72.1.0/24", &flags);
    let network = "one:ip=10.72.1.9,ip=fd72::9,mac=02:72:00:00:00:09";
    let script = "ip -o addr show dev eth0; ip route; ip -6 route; cd /sys/class/net/eth0
         cat mtu address";
    let output = podman.once(&["--network", network], &["sh", "-c", script]);
    let output = output.expect(0);
    let parts = [
        "10.72.1.9/24",
        "fd72::9/64",
        "default via 10.72.1.1 dev eth0",
        "default via fd72::1 dev eth0",
        "\n1400\n02:72:00:00:00:09\n",
    ];
    network::has_all(&output, &parts);
    podman.clear_networks(&["one"]);
}

fn connected_while_it_runs(case: &Case) {
    let podman = Podman::with_cni(case);
    podman.create_network("one", "10.72.1.0/24", &APART);
    podman.create_network("two", "10.72.2.0/24", &APART);
    podman.detach(&["--network", "one:ip=10.72.1.9"], SERVER);
    let answer = Some(ANSWER.to_owned());
    // Done twice: nothing of the first time interferes.
    for _ in 0..2 {
        podman.ok(&["network", "connect", "--ip", "10.72.2.9", "two", "c"]);
        case.wait_for("two", || podman.ask("two", "10.72.2.9") == answer);
        podman.ok(&["network", "disconnect", "two", "c"]);
        case.wait_for("no two", || {
            let shows = ["exec", "c", "ls", "/sys/class/net"];
            podman.ok(&shows) == "eth0\nlo\n"
        });
        assert_eq!(podman.ask("two", "10.72.2.9"), None);
        assert_eq!(podman.ask("one", "10.72.1.9"), answer);
    }
    podman.clear_networks(&["one", "two"]);
}
