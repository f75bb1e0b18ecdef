//! Two containers on one bridge, each in a network namespace that was made for it in advance.

use std::error::Error;
use std::process::Command;

use super::{Mode, Run, in_each};
use crate::bundle::Container;
use crate::clock::Taken;
use crate::comparison::Comparison;

/// What is measured, and the workload's arguments.
const WORK: [(&str, &[&str]); 2] = [
    (
        "1,000 requests of 64 bytes and their responses, between two containers",
        &["ask", "10.77.0.1:7000", "1000"],
    ),
    (
        "64 MiB from one container to another",
        &["send", "10.77.0.1:7000", "64"],
    ),
];

const NAMESPACES: [(&str, &str); 2] = [
    ("nacre-bench-1", "10.77.0.1/24"),
    ("nacre-bench-2", "10.77.0.2/24"),
];
const BRIDGE: &str = "nacre-bench";

pub(super) fn measure(modes: &[Mode<'_>], table: &mut Comparison) -> Result<(), Box<dyn Error>> {
    let _bridge = Bridge::make()?;
    for (what, words) in WORK {
        let times = in_each(modes, |mode| time(mode, words))?;
        table.instructions(what, times);
    }
    Ok(())
}

/// Measures a client in the second namespace, whose server is in the first.
fn time(mode: &Mode<'_>, words: &[&str]) -> Result<Taken, Box<dyn Error>> {
    let container = |words: &[&str], namespace: &str| {
        let args = [&["nacre-bench", "workload"], words].concat();
        let path = format!("/run/netns/{namespace}");
        mode.bundle(namespace, &Container::of(&args).in_network(path.as_ref()))
    };
    let server = container(&["serve", "0.0.0.0:7000"], NAMESPACES[0].0)?;
    let client = container(words, NAMESPACES[1].0)?;
    let mut serving = Run::start(mode.nacre(&["run", "--bundle", server.path()?, "server"]))?;
    serving.byte()?;
    let took = mode.time_workload(&client, "client");
    mode.carry_out(&["kill", "server", "KILL"])?;
    // The server was killed, so its status says nothing.
    let _ = serving.end();
    Ok(took?.ok_or("the guest hung; try again")?)
}

/// A bridge with a namespace at each of its ends, which is removed when this is dropped.
struct Bridge;

impl Bridge {
    fn make() -> Result<Self, Box<dyn Error>> {
        let bridge = Self;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        for (index, (namespace, address)) in NAMESPACES.into_iter().enumerate() {
            let port = format!("{BRIDGE}-{index}");
            ip(&["netns", "add", namespace])?;
            let peer = ["peer", "name", "eth0", "netns", namespace];
            ip(&[&["link", "add", &port, "type", "veth"][..], &peer].concat())?;
            ip(&["link", "set", &port, "master", BRIDGE, "up"])?;
            ip(&["-n", namespace, "addr", "add", address, "dev", "eth0"])?;
            ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        }
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for (namespace, _) in NAMESPACES {
            let _ = ip(&["netns", "delete", namespace]);
        }
        let _ = ip(&["link", "delete", BRIDGE]);
    }
}

fn ip(words: &[&str]) -> Result<(), Box<dyn Error>> {
    let status = Command::new("ip")
        .args(words)
        .status()
        .map_err(|e| format!("ip: {e} (Debian's iproute2 has it)"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("ip {} ended with {status}", words.join(" ")).into())
    }
}
