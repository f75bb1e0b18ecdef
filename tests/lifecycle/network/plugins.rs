//! CNI plugins, called as Kubernetes' runtimes (CRI) call them: on a namespace by path, before the
//! container is created and after it is gone.

use std::path::PathBuf;

use nacre_tests::network::{self, Network};
use nacre_tests::{Bundle, Case};
use serde_json::{Value, json};

use super::{another, ask, detach, in_namespace, remove};

nacre_tests::tests![
    pods_of_a_node,
    macvlan,
    ipvlan,
    ipvlan_without_arp,
    vlan,
    a_device_of_the_host,
];

struct Plugins<'a> {
    case: &'a Case,
    network: Network,
    place: PathBuf,
}

/// The configurations of a list of plugins, to be undone.
struct Attached<'a> {
    plugins: &'a Plugins<'a>,
    namespace: String,
    interface: String,
    configurations: Vec<Value>,
    result: Value,
}

impl<'a> Plugins<'a> {
    fn new(case: &'a Case) -> Self {
        let place = network::plugins(case);
        case.needs("iptables", "iptables");
        let network = Network::new(case);
        Self {
            case,
            network,
            place,
        }
    }

    #[track_caller]
    fn shell(&self, script: &str) -> String {
        self.network.shell(self.case, script)
    }

    /// Returns what a client beside the containers receives from a server, which may send nothing.
    fn ask(&self, server: &str, port: u16) -> String {
        self.shell(&format!(
            "busybox nc -w 3 {server} {port} </dev/null 2>/dev/null || true"
        ))
    }

    /// Makes a bundle whose server tells everyone on port 80 who it is.
    fn server(&self, namespace: &str) -> Bundle {
        let path = self.network.named(namespace);
        let script = format!("exec nc -ll -p 80 -e echo this is {namespace}");
        in_namespace(self.case.busybox(), path.to_str().unwrap()).shell(&script)
    }

    /// Returns where the plugins keep their data: their default place is the host's.
    fn data(&self) -> PathBuf {
        self.case.directory().join("addresses")
    }

    /// Returns addresses from the first of a subnet on, for [`Plugins::add`].
    fn addresses(&self, subnets: &[&str], routes: &[&str]) -> Value {
        let to = |subnet: &&str| json!([{ "subnet": subnet }]);
        json!({
            "type": "host-local",
            "dataDir": self.data(),
            "ranges": subnets.iter().map(to).collect::<Vec<_>>(),
            "routes": routes.iter().map(|to| json!({ "dst": to })).collect::<Vec<_>>(),
        })
    }

    #[track_caller]
    fn call(&self, command: &str, namespace: &str, interface: &str, plugin: &Value) -> String {
        let place = self.place.display();
        let kind = plugin["type"].as_str().unwrap();
        self.shell(&format!(
            "export CNI_COMMAND={command} CNI_PATH={place} CNI_IFNAME={interface}
             export CNI_CONTAINERID={namespace} CNI_NETNS=/run/netns/{namespace}
             {place}/{kind} <<'END'\n{plugin}\nEND\n"
        ))
    }

    /// Makes a network's plugins give a namespace an interface; each gets the previous one's
    /// result.
    #[track_caller]
    fn add(
        &'a self,
        network: &str,
        namespace: &str,
        interface: &str,
        list: Vec<Value>,
    ) -> Attached<'a> {
        let mut attached = Attached {
            plugins: self,
            namespace: namespace.into(),
            interface: interface.into(),
            configurations: Vec::new(),
            result: Value::Null,
        };
        for mut plugin in list {
            plugin["cniVersion"] = json!("1.0.0");
            plugin["name"] = json!(network);
            if !attached.result.is_null() {
                plugin["prevResult"] = attached.result;
            }
            let result = self.call("ADD", namespace, interface, &plugin);
            attached.result = serde_json::from_str(&result).unwrap();
            attached.configurations.push(plugin);
        }
        for plugin in &mut attached.configurations {
            plugin["prevResult"] = attached.result.clone();
        }
        attached
    }
}

impl Attached<'_> {
    /// Returns the addresses that the plugins report.
    fn addresses(&self) -> Vec<String> {
        let addresses = self.result["ips"].as_array().unwrap().iter();
        let without_length = |ip: &Value| {
            let address = ip["address"].as_str().unwrap();
            address.split_once('/').unwrap().0.to_owned()
        };
        addresses.map(without_length).collect()
    }

    #[track_caller]
    fn call(&self, command: &str, plugin: &Value) {
        let (namespace, interface) = (&self.namespace, &self.interface);
        self.plugins.call(command, namespace, interface, plugin);
    }

    /// Makes the plugin that made the interface check that everything is as it left it.
    #[track_caller]
    fn check(&self) {
        self.call("CHECK", &self.configurations[0]);
    }

    #[track_caller]
    fn delete(self) {
        for plugin in self.configurations.iter().rev() {
            self.call("DEL", plugin);
        }
    }
}

/// Returns the pods of a node: the namespace, the network and its plugins.
fn pods(plugins: &Plugins<'_>) -> [(&'static str, &'static str, Vec<Value>); 3] {
    let firewall = json!({ "type": "firewall", "backend": "iptables" });
    let bridge = || {
        let routes = ["0.0.0.0/0", "::/0"];
        json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "hairpinMode": true, "mtu": 1400,
            "ipam": plugins.addresses(&["10.75.1.0/24", "fd75:1::/64"], &routes),
        })
    };
    let port = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" });
    let ports = json!({ "type": "portmap", "runtimeConfig": { "portMappings": [port] } });
    let limits = json!({
        "ingressRate": 80_000_000, "ingressBurst": 8_000_000,
        "egressRate": 80_000_000, "egressBurst": 8_000_000,
    });
    let bandwidth = json!({ "type": "bandwidth", "runtimeConfig": { "bandwidth": limits } });
    let ptp = json!({
        "type": "ptp", "ipMasq": true, "mtu": 1300,
        "ipam": plugins.addresses(&["10.75.2.0/24"], &["0.0.0.0/0"]),
    });
    [
        ("a", "nodes", vec![bridge(), ports, firewall.clone()]),
        ("b", "nodes", vec![bridge(), bandwidth, firewall.clone()]),
        ("c", "lone", vec![ptp, firewall]),
    ]
}

/// Two pods are on a bridge, one of them with a port of the node, and a third has its own cable.
fn pods_of_a_node(case: &Case) {
    let plugins = Plugins::new(case);
    let attached = pods(&plugins).map(|(name, network, list)| {
        plugins.shell(&format!("ip netns add {name}"));
        let loopback = vec![json!({ "type": "loopback" })];
        let loopback = plugins.add("lo", name, "lo", loopback);
        (loopback, plugins.add(network, name, "eth0", list))
    });
    let of_a = attached[0].1.addresses();
    let [of_b] = &attached[1].1.addresses()[..1] else {
        unreachable!()
    };
    let [of_c] = &attached[2].1.addresses()[..] else {
        panic!("not one address")
    };
    assert_eq!(of_a.len(), 2, "{of_a:?}");
    let b = another(case);
    let c = format!("{b}-c");
    case.detach(&plugins.server("a"));
    detach(case, &b, &plugins.server("b"));
    detach(case, &c, &plugins.server("c"));
    let a = case.id();
    for (from, server, port, says) in [
        (&*b, &*of_a[0], 80, "this is a\n"),
        (&b, &of_a[1], 80, "this is a\n"),
        (a, of_b, 80, "this is b\n"),
        // Through the node, all pods reach each other.
        (&c, &of_a[0], 80, "this is a\n"),
        (a, of_c, 80, "this is c\n"),
        // The node's port, from everywhere.
        (a, "10.75.1.1", 8080, "this is a\n"),
        (&b, "10.75.1.1", 8080, "this is a\n"),
        (&c, "10.75.1.1", 8080, "this is a\n"),
    ] {
        let what = format!("{server}:{port} from {from}");
        case.wait_for(&what, || ask(case, from, server, port) == says);
    }
    assert_eq!(plugins.ask("127.0.0.1", 8080), "this is a\n");
    for (loopback, attached) in &attached {
        loopback.check();
        attached.check();
    }
    remove(case, &c);
    remove(case, &b);
    case.remove_container();
    for (loopback, attached) in attached {
        attached.delete();
        loopback.delete();
    }
    assert_eq!(plugins.shell("ip -o link show type veth"), "");
}

/// The MAC address of `port`, in the tests below.
const MAC: &str = "02:76:00:00:00:01";

/// Runs a container with an interface that a plugin makes of `port`, and sends requests from the
/// other end of its wire, which is in a namespace of its own.
fn on_a_port(case: &Case, mut plugin: Value, prepare: &str) {
    let plugins = Plugins::new(case);
    plugins.shell(&format!(
        "ip netns add a; ip netns add far
         ip link add port address {MAC} type veth peer name eth0 netns far
         ip link set port up; ip -n far link set eth0 up"
    ));
    let kind = plugin["type"].as_str().unwrap();
    let options = if kind == "vlan" { "id 7" } else { "" };
    let why = match kind {
        "host-device" => String::new(),
        _ => plugins.shell(&format!(
            "ip link add link port name probe type {kind} {options} 2>&1 && ip link delete probe \
             || true"
        )),
    };
    if !why.is_empty() {
        case.ignore(&format!("no {kind} here: {}", why.trim()));
    }
    let far = if kind == "vlan" { "eth0.7" } else { "eth0" };
    if kind == "vlan" {
        plugins.shell("ip -n far link add link eth0 name eth0.7 type vlan id 7");
    }
    plugins.shell(&format!(
        "ip -n far link set {far} up; ip -n far address add 10.76.1.1/24 dev {far}; {prepare}"
    ));
    // An interface that was a container's is down.
    let shows = "ip link set port up; ip -br link show port; tc qdisc show dev port";
    let before = plugins.shell(shows);
    let addresses = json!([{ "address": "10.76.1.9/24" }]);
    plugin["ipam"] = json!({ "type": "static", "addresses": addresses });
    let attached = plugins.add("net", "a", "eth0", vec![plugin]);
    case.detach(&plugins.server("a"));
    let asks = "ip netns exec far busybox nc -w 3 10.76.1.9 80 </dev/null 2>/dev/null || true";
    case.wait_for("the server", || plugins.shell(asks) == "this is a\n");
    attached.check();
    case.remove_container();
    attached.delete();
    assert_eq!(plugins.shell(shows), before);
}

fn macvlan(case: &Case) {
    let plugin = json!({ "type": "macvlan", "master": "port", "mode": "bridge" });
    on_a_port(case, plugin, "");
}

fn ipvlan(case: &Case) {
    let plugin = json!({ "type": "ipvlan", "master": "port", "mode": "l2" });
    on_a_port(case, plugin, "");
}

/// The host routes; the container neither asks for MAC addresses nor answers such requests.
fn ipvlan_without_arp(case: &Case) {
    let plugin = json!({ "type": "ipvlan", "master": "port", "mode": "l3" });
    let prepare = format!(
        "ip address add 10.76.1.2/24 dev port
         ip -n far neighbour add 10.76.1.9 lladdr {MAC} dev eth0 nud permanent"
    );
    on_a_port(case, plugin, &prepare);
}

fn vlan(case: &Case) {
    let plugin = json!({ "type": "vlan", "master": "port", "vlanId": 7 });
    on_a_port(case, plugin, "");
}

fn a_device_of_the_host(case: &Case) {
    let plugin = json!({ "type": "host-device", "device": "port" });
    on_a_port(case, plugin, "");
}
