//! `linux.netDevices`: interfaces that a container is given.
//!
//! Each test is in a network namespace of its own, so that the host's interfaces aren't affected.

use std::fs::{self, File};
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;

use crate::Skipped;
use crate::bundle::Bundle;
use crate::user_namespaces::mapped;

tests![
    one_is_moved_renamed_and_keeps_its_addresses,
    one_is_given_to_a_user_namespace,
    one_is_taken_back_if_the_container_fails,
    one_that_is_not_there_is_named,
    a_name_that_is_taken_is_an_error,
];

/// A network namespace of the test's own, with a pair of interfaces, which lasts as long as this.
struct Scene(File);

impl Scene {
    fn new() -> Result<Self, Skipped> {
        let own = File::open("/proc/self/ns/net").unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let scene = Scene(own);
        if !ip("link add veth0 type veth peer name veth1").1 {
            return Err(Skipped(
                "the kernel has no veth interfaces, or there is no ip",
            ));
        }
        for line in [
            "link set veth0 mtu 1399 up",
            "addr add 192.0.2.7/24 dev veth0",
            "addr add 169.254.0.7/16 scope link dev veth0",
        ] {
            assert!(ip(line).1, "{line}");
        }
        if has_ipv6() {
            assert!(ip("addr add 2001:db8::7/64 dev veth0 nodad").1);
        }
        Ok(scene)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }
}

/// Returns what `ip` prints, and whether it succeeded.
fn ip(line: &str) -> (String, bool) {
    match Command::new("ip").args(line.split(' ')).output() {
        Ok(output) => (
            String::from_utf8(output.stdout).unwrap(),
            output.status.success(),
        ),
        Err(_) => (String::new(), false),
    }
}

fn has_ipv6() -> bool {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    disabled.is_ok_and(|disabled| disabled.trim() == "0")
}

const SHOW: &str = "ip addr show net7; ip link show veth1";

fn assert_given(output: &str) {
    for words in [
        "mtu 1399",
        "inet 192.0.2.7/24",
        "inet6 2001:db8::7/64",
        ",UP",
    ] {
        assert!(output.contains(words), "{words}: {output}");
    }
    // Link-local addresses stay behind.
    assert!(!output.contains("169.254.0.7"), "{output}");
}

fn one_is_moved_renamed_and_keeps_its_addresses() -> Result<(), Skipped> {
    let _scene = Scene::new()?;
    let mut bundle = Bundle::new(SHOW);
    bundle.config["linux"]["netDevices"] = json!({"veth0": {"name": "net7"}, "veth1": {}});
    let output = bundle.output();
    assert_given(&output);
    let other = output.lines().find(|line| line.contains(" veth1"));
    assert!(other.is_some_and(|line| line.contains(",UP")), "{output}");
    assert!(!ip("link show veth0").1 && !ip("link show veth1").1);
    Ok(())
}

fn one_is_given_to_a_user_namespace() -> Result<(), Skipped> {
    let _scene = Scene::new()?;
    let mut bundle = mapped("ip addr show net7");
    bundle.config["linux"]["netDevices"] = json!({"veth0": {"name": "net7"}});
    assert_given(&bundle.output());
    Ok(())
}

fn one_is_taken_back_if_the_container_fails() -> Result<(), Skipped> {
    let _scene = Scene::new()?;
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["netDevices"] = json!({"veth0": {"name": "net7"}});
    bundle.config["process"]["args"] = json!(["/no/such"]);
    // The interface is taken back however soon the container fails.
    for _ in 0..20 {
        let (message, _) = bundle.error();
        assert!(message.contains("no such file"), "{message}");
        assert_given(&ip("addr show veth0").0);
    }
    Ok(())
}

fn one_that_is_not_there_is_named() -> Result<(), Skipped> {
    let _scene = Scene::new()?;
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["netDevices"] = json!({"veth0": {}, "zero0": {}});
    let (message, _) = bundle.error();
    let expected = "linux.netDevices.zero0: can't find it: No such device";
    assert!(message.starts_with(expected), "{message}");
    // The first interface is back.
    assert_given(&ip("addr show veth0").0);
    Ok(())
}

fn a_name_that_is_taken_is_an_error() -> Result<(), Skipped> {
    let _scene = Scene::new()?;
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["netDevices"] = json!({"veth0": {"name": "lo"}});
    let (message, _) = bundle.error();
    let expected = "linux.netDevices.veth0: can't move it to the container's network namespace: ";
    assert!(message.starts_with(expected), "{message}");
    assert_given(&ip("addr show veth0").0);
    Ok(())
}
