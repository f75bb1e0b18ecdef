//! Reads a namespace's network and recreates it in another one: what a VM's host and guest do, here
//! with a pair of interfaces in place of the guest's device.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nacre_agent::container::describe;
use nacre_agent::network::{CarriedNetwork, Netlink, Network, Nic, Nics, Watch};
use nix::sched::{CloneFlags, setns, unshare};

use crate::Skipped;

tests![
    a_network_is_made_like_another,
    it_follows_what_changes,
    what_is_not_carried_is_left_out,
    what_cannot_be_made_is_named,
];

/// Three namespaces: the container's on the host, the guest's own with its devices, and the
/// container's in the guest.
struct Scene {
    own: File,
    host: File,
    guest: File,
    container: File,
    watch: Watch,
}

impl Scene {
    fn new() -> Result<Self, Skipped> {
        let own = current();
        let new = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            current()
        };
        let (guest, container, host) = (new(), new(), new());
        let scene = Scene {
            own,
            guest,
            container,
            host,
            watch: Watch::open().unwrap(),
        };
        let supported = Command::new("ip")
            .args("link add probe0 type veth peer name probe1".split(' '))
            .output();
        if !supported.is_ok_and(|output| output.status.success()) {
            let reason = "the kernel has no veth interfaces, or there is no ip";
            return Err(Skipped(reason));
        }
        ip("link del probe0");
        scene.enter(&scene.guest);
        (0..2).for_each(make_device);
        scene.enter(&scene.host);
        Ok(scene)
    }

    fn enter(&self, namespace: &File) {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Returns what `ip` prints in a namespace.
    fn ip_in(&self, namespace: &File, line: &str) -> String {
        self.enter(namespace);
        let output = ip(line);
        self.enter(&self.host);
        output
    }

    /// Reads the host's network to be carried: the interfaces named, in this order.
    fn read(&self, names: &[&str]) -> Network {
        let namespace = Netlink::open().unwrap().read().unwrap();
        let nics = (0..).zip(names).map(|(slot, name)| {
            let mut links = namespace.links.iter();
            let link = links.find(|link| link.interface.name == *name).unwrap();
            let interface = link.interface.clone();
            Nic { slot, interface }
        });
        Network {
            nics: nics.collect(),
            routes: namespace.routes.clone(),
        }
    }

    fn has(&self, name: &str) -> bool {
        let links = Netlink::open().unwrap().links().unwrap();
        links.iter().any(|link| link.interface.name == name)
    }

    fn carried(&self) -> (CarriedNetwork, Devices) {
        let carried = CarriedNetwork::new(self.container.try_clone().unwrap()).unwrap();
        let devices = Devices {
            guest: self.guest.try_clone().unwrap(),
            netlink: Netlink::open_in(&self.guest).unwrap(),
        };
        (carried, devices)
    }

    /// Fails unless the container's network, as `ip` shows it, is that of the host.
    #[track_caller]
    fn assert_alike(&self) {
        for what in [
            "-4 route",
            "-6 route",
            "-4 rule",
            "neigh show nud permanent",
            "addr",
        ] {
            let seen = || [&self.container, &self.host].map(|of| plain(&self.ip_in(of, what)));
            // What the kernel adds by itself takes a moment.
            let end = Instant::now() + Duration::from_secs(60);
            let mut last = seen();
            while last[0] != last[1] && Instant::now() < end {
                sleep(Duration::from_millis(50));
                last = seen();
            }
            assert_eq!(last[0], last[1], "ip {what}");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.enter(&self.own);
    }
}

/// Removes what can't be the same: numbers, the device at the other end, the interface's queue, and
/// the origin of an IPv6 address.
fn plain(output: &str) -> Vec<String> {
    let words_of = |line: &str| {
        let line = line.replace(" proto kernel_ll", "");
        let mut words: Vec<String> = Vec::new();
        let mut skip = 0;
        for word in line.split_whitespace() {
            if skip > 0 {
                skip -= 1;
            } else if matches!(word, "qdisc" | "link-netnsid" | "link-netns" | "qlen") {
                skip = 1;
            } else if word != "nodad" {
                words.push(word.split('@').next().unwrap_or_default().to_owned());
            }
        }
        words.join(" ")
    };
    let mut lines: Vec<String> = output.lines().map(words_of).collect();
    for line in &mut lines {
        if let Some((number, rest)) = line.split_once(": ")
            && number.parse::<u32>().is_ok()
        {
            *line = rest.replace("<BROADCAST,MULTICAST,UP,LOWER_UP>", "<UP>");
        }
    }
    // IPv6 addresses are listed in the order in which they were added.
    lines.sort();
    lines
}

/// Interfaces in place of the guest's devices.
struct Devices {
    guest: File,
    netlink: Netlink,
}

impl Nics for Devices {
    fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    fn take(&mut self, slot: u32) -> io::Result<u32> {
        self.netlink.link(&format!("eth{slot}"))
    }

    fn release(&mut self, slot: u32) -> io::Result<()> {
        let own = current();
        setns(&self.guest, CloneFlags::CLONE_NEWNET)?;
        // Deleting one end deletes the other too.
        ip(&format!("link del end{slot}"));
        make_device(slot);
        setns(&own, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }
}

fn make_device(slot: u32) {
    ip(&format!("link add eth{slot} type veth peer name end{slot}"));
    ip(&format!("link set end{slot} up"));
}

fn current() -> File {
    File::open("/proc/self/ns/net").unwrap()
}

#[track_caller]
fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("ip {line}: {error}"));
    assert!(output.status.success(), "ip {line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes interfaces such as clients make, with everything that is carried.
fn furnish(scene: &Scene) {
    for slot in 0..2 {
        let host = format!("/proc/{}/fd/{}", std::process::id(), scene.host.as_raw_fd());
        scene.enter(&scene.guest);
        let mac = format!("02:42:ac:11:00:0{}", 7 + slot);
        ip(&format!(
            "link add net{slot} address {mac} type veth peer name far{slot}"
        ));
        ip(&format!("link set far{slot} up"));
        ip(&format!("link set net{slot} netns {host}"));
        scene.enter(&scene.host);
        ip(&format!("link set net{slot} mtu 1399 up"));
    }
    for line in [
        "addr add 192.0.2.7/24 brd + dev net0",
        "addr add 192.0.2.8/24 dev net0 label net0:two",
        "addr add 198.51.100.1 peer 198.51.100.2/32 dev net0 metric 70",
        "addr add 203.0.113.1/24 dev net0 noprefixroute",
        "addr add 192.0.2.129/25 dev net1 metric 90",
        "-6 addr add 2001:db8::7/64 dev net0 nodad",
        "-6 addr add 2001:db8::8/64 dev net0 nodad",
        "neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 nud permanent dev net0",
        "-6 neigh add fe80::9 lladdr 02:00:00:00:00:99 nud permanent router dev net0",
        "route add default via 192.0.2.1 src 192.0.2.8 metric 50 mtu 1300",
        "route add 10.1.0.0/16 via 172.16.0.1 dev net0 onlink proto static",
        "route add 10.2.0.0/16 dev net0 scope link",
        "route add 10.3.0.0/16 via inet6 fe80::1 dev net0",
        "route add blackhole 10.4.0.0/16",
        "route add 10.5.0.0/16 nexthop via 192.0.2.1 nexthop via 192.0.2.130 weight 3",
        "-6 route add default via 2001:db8::1 dev net0",
        "-6 route add 2001:db8:1::/48 via fe80::1 dev net0 pref high metric 7",
        "-6 route add unreachable 2001:db8:2::/48",
    ] {
        ip(line);
    }
    settle();
}

/// Waits until the kernel has added what it adds by itself to each interface that is up, which it
/// does once it has noticed the carrier: a link-local address, which it first looks for elsewhere,
/// and its route.
fn settle() {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_settled() {
        assert!(Instant::now() < end, "{}", ip("-6 addr"));
        sleep(Duration::from_millis(50));
    }
}

fn is_settled() -> bool {
    let links = ip("-o link show up");
    let up = links.lines().filter(|line| !line.contains("LOOPBACK"));
    let mut names = up.filter_map(|line| line.split([':', '@']).nth(1));
    let is_complete = |name: &str| {
        let name = name.trim();
        ip(&format!("-6 addr show dev {name}")).contains("inet6 fe80:")
            && ip(&format!("-6 route show dev {name}")).contains("fe80::/64")
    };
    names.all(is_complete) && !ip("-6 addr show tentative").contains("inet6")
}

fn a_network_is_made_like_another() -> Result<(), Skipped> {
    let scene = Scene::new()?;
    furnish(&scene);
    let network = scene.read(&["net0", "net1"]);
    // It is sent by the protocol.
    let told = serde_json::to_string(&network).unwrap();
    let network: Network = serde_json::from_str(&told).unwrap();
    let (mut carried, mut devices) = scene.carried();
    carried.set(&mut devices, &network).unwrap();
    scene.assert_alike();
    // Setting it again changes nothing.
    carried.set(&mut devices, &network).unwrap();
    scene.assert_alike();
    Ok(())
}

fn it_follows_what_changes() -> Result<(), Skipped> {
    let scene = Scene::new()?;
    furnish(&scene);
    let (mut carried, mut devices) = scene.carried();
    carried
        .set(&mut devices, &scene.read(&["net0", "net1"]))
        .unwrap();
    assert!(scene.watch.changed().unwrap());
    assert!(!scene.watch.changed().unwrap());
    for lines in [
        &[
            "addr del 203.0.113.1/24 dev net0",
            "addr add 203.0.113.2/24 dev net0",
        ][..],
        &["neigh del 192.0.2.9 dev net0", "link set net0 mtu 1400"],
        &[
            "route del default",
            "route add default via 192.0.2.3",
            "route del 10.1.0.0/16",
        ],
        &[
            "route del 10.5.0.0/16",
            "link set net1 down",
            "-6 route del default",
        ],
        &[
            "link set net0 down",
            "link set net0 name x0",
            "link set x0 up",
        ],
        &[
            "addr add 192.0.2.77/24 dev x0",
            "route add default via 192.0.2.1 dev x0",
            "neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 nud permanent dev x0",
        ],
        // The kernel forgets the neighbour entry.
        &[
            "link set x0 arp off",
            "neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 nud permanent dev x0",
        ],
        &["link set x0 arp on"],
        &["link set x0 arp off"],
    ] {
        for line in lines {
            ip(line);
        }
        assert!(scene.watch.changed().unwrap(), "{lines:?}");
        settle();
        let first = if scene.has("x0") { "x0" } else { "net0" };
        carried
            .set(&mut devices, &scene.read(&[first, "net1"]))
            .unwrap();
        scene.assert_alike();
    }
    // One interface goes, and comes again.
    let all = scene.read(&["x0", "net1"]);
    let mut less = all.clone();
    less.nics.remove(0);
    less.routes.clear();
    carried.set(&mut devices, &less).unwrap();
    let left = scene.ip_in(&scene.container, "-o link");
    assert!(!left.contains("x0") && left.contains("net1"), "{left}");
    carried.set(&mut devices, &all).unwrap();
    scene.assert_alike();
    Ok(())
}

fn what_is_not_carried_is_left_out() -> Result<(), Skipped> {
    let scene = Scene::new()?;
    furnish(&scene);
    let plain = scene.read(&["net0", "net1"]);
    for line in [
        "route add 10.9.0.0/16 via 192.0.2.1 table 77",
        "route add 10.8.0.0/16 dev lo",
        "neigh add 192.0.2.10 lladdr 02:00:00:00:00:98 nud stale dev net0",
        "neigh add proxy 192.0.2.11 dev net0",
    ] {
        ip(line);
    }
    assert_eq!(scene.read(&["net0", "net1"]), plain);
    Ok(())
}

fn what_cannot_be_made_is_named() -> Result<(), Skipped> {
    let scene = Scene::new()?;
    furnish(&scene);
    let good = scene.read(&["net0", "net1"]);
    let (mut carried, mut devices) = scene.carried();
    let mut set = |change: &dyn Fn(&mut Network)| {
        let mut network = good.clone();
        change(&mut network);
        let error = carried.set(&mut devices, &network).unwrap_err();
        describe(&error)
    };
    let error = set(&|network| network.nics[0].slot = 9);
    assert_eq!(
        error,
        "network interface \"net0\": can't make it: No such device (os error 19)"
    );
    let error = set(&|network| network.nics[0].interface.name = "../x".into());
    assert!(error.contains("can't have such a name"), "{error}");
    let error = set(&|network| network.nics[0].interface.mtu = 7);
    assert!(
        error.contains("\"net0\": can't set its MTU to 7: "),
        "{error}"
    );
    let error = set(&|network| network.routes[0].hops[0].interface = "net7".into());
    assert!(error.starts_with("can't make the route to "), "{error}");
    let error = set(&|network| network.nics = vec![good.nics[0].clone(); 65]);
    assert!(
        error.contains("65 interfaces, of which a VM can have 64"),
        "{error}"
    );
    // The earlier failure doesn't get in the way.
    carried.set(&mut devices, &good).unwrap();
    scene.assert_alike();
    Ok(())
}
