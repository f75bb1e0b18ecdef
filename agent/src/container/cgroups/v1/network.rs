//! The net_cls and net_prio controllers: `linux.resources.network`, which version 2 lacks.

use oci_spec::runtime::LinuxNetwork;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::Setting;

/// Returns the settings. `here` says whether the host has a controller.
pub(in crate::container::cgroups) fn settings(
    network: &LinuxNetwork,
    here: impl Fn(&str) -> bool,
) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    if let Some(id) = network.class_id().filter(|id| *id != 0) {
        let field = "network.classID";
        if !here("net_cls") {
            let reason =
                "no hierarchy of cgroup v1 has net_cls here, and v2 has no such controller";
            return Err(CgroupError::unsupported(field, reason));
        }
        settings.push(Setting::new(field, "net_cls.classid", id));
    }
    for priority in network.priorities().iter().flatten() {
        let field = "network.priorities";
        if !here("net_prio") {
            let reason =
                "no hierarchy of cgroup v1 has net_prio here, and v2 has no such controller";
            return Err(CgroupError::unsupported(field, reason));
        }
        let name = priority.name();
        let sound = |b: u8| b.is_ascii_graphic() && b != b'/';
        if !(1..16).contains(&name.len()) || !name.bytes().all(sound) {
            let expected = "the name of a network interface";
            return Err(CgroupError::invalid(field, format!("{name:?}"), expected));
        }
        let value = format!("{name} {}", priority.priority());
        settings.push(Setting::new(field, "net_prio.ifpriomap", value));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::setting::testing::written;

    fn network(json: &str, here: bool) -> Result<Vec<(String, String)>, String> {
        written(json, |network: &LinuxNetwork| settings(network, |_| here))
    }

    const BOTH: &str = r#"{"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]}"#;

    #[test]
    fn each_has_its_file() {
        let expected = [
            ("net_cls.classid", "1048577"),
            ("net_prio.ifpriomap", "eth0 500"),
        ];
        let expected = expected.map(|(file, value)| (file.to_owned(), value.to_owned()));
        assert_eq!(network(BOTH, true).unwrap(), expected);
        // What callers write without meaning anything by it.
        assert_eq!(
            network(r#"{"classID": 0, "priorities": []}"#, false),
            Ok(vec![])
        );
    }

    #[test]
    fn what_can_t_be_is_refused_by_name() {
        let error = network(BOTH, false).unwrap_err();
        assert!(error.contains("network.classID "), "{error}");
        for name in ["", "a b", "an-interface-too-long", "a/b"] {
            let json = format!(r#"{{"priorities": [{{"name": "{name}", "priority": 1}}]}}"#);
            let error = network(&json, true).unwrap_err();
            assert!(error.contains("network.priorities: "), "{error}");
        }
    }
}
