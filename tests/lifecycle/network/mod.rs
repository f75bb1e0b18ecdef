//! The network of a container: it has what its namespace has, in a VM too.

mod carried;
mod limited;
mod namespace;
mod plugins;
mod reached;
mod traffic;

use std::process::Command;

use nacre_tests::network::Network;
use nacre_tests::suite::{on_any_hypervisor, on_any_hypervisor_but};
use nacre_tests::{Bundle, Case, Running, Test};
use serde_json::json;

/// Returns all tests here; a test for one mode only says so.
pub(crate) fn tests() -> Vec<Test> {
    let tests = [
        on_any_hypervisor_but(
            &["all_of_an_interface", "what_changes_while_it_runs"],
            carried::tests(),
        ),
        on_any_hypervisor_but(&["two_on_a_bridge"], reached::tests()),
        traffic::tests(),
        on_any_hypervisor_but(&["what_is_received"], limited::tests()),
        on_any_hypervisor(namespace::tests()),
        // The tests that stay are of interfaces that a host's kernel may lack; the testbed's has
        // them.
        on_any_hypervisor_but(&["ipvlan", "ipvlan_without_arp", "vlan"], plugins::tests()),
    ];
    tests.into_iter().flatten().collect()
}

/// Two bridges, `one` and `two`, and namespaces with interfaces on them. The bridge of network N
/// has the addresses 10.73.N.1 and fd73:N::1.
pub(super) struct Lan<'a> {
    case: &'a Case,
    pub(super) network: Network,
}

impl<'a> Lan<'a> {
    pub(super) fn new(case: &'a Case) -> Self {
        case.needs("tc", "iproute2");
        let network = Network::new(case);
        network.shell(
            case,
            "echo 0 >/proc/sys/net/ipv4/ip_forward
             n=0; for bridge in one two; do n=$((n + 1))
             ip link add $bridge type bridge; ip link set $bridge up
             ip address add 10.73.$n.1/24 dev $bridge
             ip address add fd73:$n::1/64 dev $bridge nodad; done",
        );
        Self { case, network }
    }

    fn shell(&self, script: &str) -> String {
        self.network.shell(self.case, script)
    }

    /// Makes a namespace.
    pub(super) fn add(&self, name: &str) {
        self.shell(&format!("ip netns add {name}; ip -n {name} link set lo up"));
    }

    /// Gives a namespace an interface on network N, with 10.73.N.H and fd73:N::H.
    pub(super) fn attach(&self, name: &str, interface: &str, bridge: &str, host: u32) {
        let n = if bridge == "one" { 1 } else { 2 };
        self.shell(&format!(
            "ip link add {name}-{interface} mtu 1400 type veth peer name {interface} mtu 1400 \
             address 02:73:00:00:0{n}:{host:02} netns {name}
             ip link set {name}-{interface} master {bridge} up
             inside='ip -n {name}'
             $inside address add 10.73.{n}.{host}/24 dev {interface}
             $inside address add fd73:{n}::{host}/64 dev {interface} nodad
             $inside link set {interface} up
             $inside route replace default via 10.73.{n}.1
             $inside -6 route replace default via fd73:{n}::1"
        ));
    }

    /// Makes a bundle for a container in a namespace.
    fn bundle(&self, namespace: &str) -> Bundle {
        let path = self.network.named(namespace);
        in_namespace(self.case.busybox(), path.to_str().unwrap())
    }

    /// Makes a bundle whose server tells everyone on port 80 who it is.
    fn server(&self, namespace: &str) -> Bundle {
        let script = format!("exec nc -ll -p 80 -e echo this is {namespace}");
        self.bundle(namespace).shell(&script)
    }

    /// Starts a busybox command beside the bridges.
    fn start(&self, words: &[&str]) -> Beside {
        let mut command = self.case.mark(Command::new("busybox"));
        command.args(words);
        Beside(self.case.spawn(self.network.enter(&command)))
    }

    /// Returns what a namespace has, as the host's tools show it.
    pub(super) fn shown(&self, name: &str) -> String {
        self.shell(&format!(
            "ip -n {name} -o link; tc -n {name} qdisc
             for i in $(ip -n {name} -br link | sed 's/[@ ].*//'); do
             tc -n {name} filter show dev $i ingress 2>/dev/null || true; done"
        ))
    }
}

/// A process that is killed when this is dropped.
struct Beside(Running);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.kill();
    }
}

pub(super) fn in_namespace(bundle: Bundle, path: &str) -> Bundle {
    bundle.set(
        "/linux/namespaces/1",
        json!({ "type": "network", "path": path }),
    )
}

/// Starts a further container by its name with `nacre run --detach`.
fn detach(case: &Case, id: &str, bundle: &Bundle) {
    let mut command = case.nacre();
    command.args(["run", "--detach", "--bundle"]);
    command.arg(bundle.write()).arg(id);
    assert_eq!(case.leave(command), 0, "{}", case.output());
}

fn another(case: &Case) -> String {
    format!("{}-b", case.id())
}

/// Runs a script in a container and returns its output.
#[track_caller]
fn inside(case: &Case, id: &str, script: &str) -> String {
    case.command(&["exec", id, "sh", "-c", script]).expect(0)
}

/// Returns what a container receives from a server, which may send nothing.
fn ask(case: &Case, id: &str, server: &str, port: u16) -> String {
    let script = format!("nc -w 3 {server} {port} </dev/null 2>/dev/null || true");
    inside(case, id, &script)
}

#[track_caller]
fn remove(case: &Case, id: &str) {
    assert_eq!(case.command(&["delete", "--force", id]).ok(), "");
}
