//! Parses `linux.netDevices`.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::error::ConfigError;
use crate::network::is_name;

/// Returns the devices of a configuration, by name: the present name, and the one in the container.
pub(crate) fn devices(linux: &Linux) -> Vec<(&str, &str)> {
    let devices = linux.net_devices().iter().flatten();
    let mut devices: Vec<(&str, &str)> = devices
        .map(|(name, device)| {
            let new_name = device.name().as_deref().filter(|name| !name.is_empty());
            (name.as_str(), new_name.unwrap_or(name))
        })
        .collect();
    devices.sort_unstable();
    devices
}

/// Checks the names, and that there is a namespace to move the devices to.
pub(crate) fn validate(linux: &Linux) -> Result<(), ConfigError> {
    let devices = devices(linux);
    let mut namespaces = linux.namespaces().iter().flatten();
    if !devices.is_empty() && !namespaces.any(|n| n.typ() == LinuxNamespaceType::Network) {
        let problem = "it needs a network namespace, which the container lacks";
        return Err(ConfigError::invalid("linux.netDevices", problem));
    }
    for (index, (name, new_name)) in devices.iter().enumerate() {
        let field = format!("linux.netDevices.{name}");
        for (field, name) in [(field.clone(), name), (format!("{field}.name"), new_name)] {
            if !is_name(name) {
                let problem = format!("{name:?} can't be an interface's name");
                return Err(ConfigError::invalid(field, problem));
            }
        }
        if devices
            .iter()
            .take(index)
            .any(|(_, other)| other == new_name)
        {
            let problem = format!("there are two that are to be {new_name:?}");
            return Err(ConfigError::invalid(format!("{field}.name"), problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(namespaces: Value, devices: Value) -> Result<(), String> {
        let linux = json!({"namespaces": namespaces, "netDevices": devices});
        let linux: Linux = serde_json::from_value(linux).unwrap();
        validate(&linux).map_err(|e| e.to_string())
    }

    #[test]
    fn names_are_checked() {
        let check = |devices| check(json!([{"type": "network"}]), devices);
        check(json!({"eth0": {}, "eth1": {"name": "eth2"}, "eth2": {"name": "eth1"}})).unwrap();
        for (devices, error) in [
            (json!({"a/b": {}}), "linux.netDevices.a/b: \"a/b\" can't be"),
            (
                json!({"e": {"name": ".."}}),
                "linux.netDevices.e.name: \"..\" can't be",
            ),
            (json!({"e": {"name": "eth%d"}}), "linux.netDevices.e.name: "),
            (
                json!({"sixteen-bytes-it": {}}),
                "linux.netDevices.sixteen-bytes-it: ",
            ),
            (json!({"e": {"name": "a b"}}), "linux.netDevices.e.name: "),
            (
                json!({"a": {"name": "c"}, "b": {"name": "c"}}),
                "linux.netDevices.b.name: there are two that are to be \"c\"",
            ),
        ] {
            let found = check(devices).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn they_need_a_network_namespace() {
        check(json!([]), json!({})).unwrap();
        let found = check(json!([]), json!({"eth0": {}})).unwrap_err();
        assert!(
            found.starts_with("linux.netDevices: it needs a network namespace"),
            "{found}"
        );
    }
}
