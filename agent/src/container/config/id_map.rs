//! Parses `linux.uidMappings` and `linux.gidMappings`, and checks ids against them
//! ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)).

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Process};
use rustix::thread::CapabilitySet;

use super::error::ConfigError;

/// The kernel's limit on the lines of a map.
const MAX_LINES: usize = 340;

/// How the two kinds of ids differ.
pub(crate) struct IdKind {
    pub(crate) field: &'static str,
    pub(crate) file: &'static str,
    pub(crate) capability: CapabilitySet,
    pub(crate) helper: &'static str,
    pub(crate) helpers_file: &'static str,
}

const USERS: IdKind = IdKind {
    field: "uidMappings",
    file: "uid_map",
    capability: CapabilitySet::SETUID,
    helper: "newuidmap",
    helpers_file: "/etc/subuid",
};

const GROUPS: IdKind = IdKind {
    field: "gidMappings",
    file: "gid_map",
    capability: CapabilitySet::SETGID,
    helper: "newgidmap",
    helpers_file: "/etc/subgid",
};

/// Returns `linux.uidMappings` and `linux.gidMappings`, as far as they have a meaning.
pub(crate) fn mappings(linux: &Linux) -> [(&'static IdKind, &[LinuxIdMapping]); 2] {
    let joined = joins_user_namespace(linux);
    [
        (&USERS, linux.uid_mappings()),
        (&GROUPS, linux.gid_mappings()),
    ]
    .map(|(kind, given)| match given.as_deref().unwrap_or_default() {
        // Podman writes this where a namespace is joined, for runtimes that require mappings.
        [one] if joined && (one.container_id(), one.host_id(), one.size()) == (0, 0, 1) => {
            (kind, &[] as &[LinuxIdMapping])
        }
        given => (kind, given),
    })
}

pub(crate) fn joins_user_namespace(linux: &Linux) -> bool {
    let mut namespaces = linux.namespaces().iter().flatten();
    namespaces.any(|n| {
        n.typ() == LinuxNamespaceType::User && n.path().iter().any(|p| !p.as_os_str().is_empty())
    })
}

/// Checks the mappings by themselves, and that they are present where they are needed and absent
/// where they have no use.
pub(crate) fn validate(linux: &Linux) -> Result<(), ConfigError> {
    let mut namespaces = linux.namespaces().iter().flatten();
    let has_user = namespaces.any(|n| n.typ() == LinuxNamespaceType::User);
    let joined = joins_user_namespace(linux);
    for (kind, mappings) in mappings(linux) {
        let field = format!("linux.{}", kind.field);
        if !has_user && !mappings.is_empty() {
            let problem = "it needs a user namespace, which the container lacks";
            return Err(ConfigError::invalid(field, problem));
        }
        if has_user && !joined && mappings.is_empty() {
            return Err(ConfigError::missing(field));
        }
        if mappings.len() > MAX_LINES {
            let problem = format!(
                "{} of them are over the kernel's limit of {MAX_LINES}",
                mappings.len()
            );
            return Err(ConfigError::invalid(field, problem));
        }
        validate_ranges(&field, mappings)?;
        if !mappings.is_empty() && !is_mapped(mappings, 0) {
            let problem = "the container's id 0 isn't mapped, as which it is set up";
            return Err(ConfigError::invalid(field, problem));
        }
    }
    Ok(())
}

/// Checks that the kernel would take the mappings.
pub(crate) fn validate_ranges(field: &str, mappings: &[LinuxIdMapping]) -> Result<(), ConfigError> {
    for (index, mapping) in mappings.iter().enumerate() {
        let invalid = |name: &str, problem: String| {
            Err(ConfigError::invalid(
                format!("{field}[{index}].{name}"),
                problem,
            ))
        };
        let size = mapping.size();
        if size == 0 {
            return invalid("size", "it maps nothing".to_owned());
        }
        for (name, first) in [
            ("containerID", mapping.container_id()),
            ("hostID", mapping.host_id()),
        ] {
            // The highest number of all stands for "no id".
            if first.checked_add(size).is_none() {
                return invalid(
                    name,
                    format!("{size} ids from {first} on are more than there are"),
                );
            }
        }
        let overlaps =
            |a: u32, b: u32, of_b: u32| a < b.saturating_add(of_b) && b < a.saturating_add(size);
        for other in mappings.iter().take(index) {
            for (name, own, others) in [
                ("containerID", mapping.container_id(), other.container_id()),
                ("hostID", mapping.host_id(), other.host_id()),
            ] {
                if overlaps(own, others, other.size()) {
                    return invalid(name, "ids of it are mapped twice".to_owned());
                }
            }
        }
    }
    Ok(())
}

/// Checks that the ids of a process exist in its user namespace.
pub(crate) fn validate_user(linux: &Linux, process: &Process) -> Result<(), ConfigError> {
    let user = process.user();
    let [(users, uids), (groups, gids)] = mappings(linux);
    let additional = user.additional_gids().iter().flatten().enumerate();
    let additional =
        additional.map(|(index, gid)| (format!("additionalGids[{index}]"), *gid, groups, gids));
    let ids = [
        ("uid".to_owned(), user.uid(), users, uids),
        ("gid".to_owned(), user.gid(), groups, gids),
    ];
    for (field, id, kind, given) in ids.into_iter().chain(additional) {
        // Without mappings there is no user namespace, or one whose mappings aren't known.
        if !given.is_empty() && !is_mapped(given, id) {
            return Err(ConfigError::invalid(
                format!("process.user.{field}"),
                format!("{id} isn't mapped by linux.{}", kind.field),
            ));
        }
    }
    Ok(())
}

fn is_mapped(mappings: &[LinuxIdMapping], id: u32) -> bool {
    host_id(mappings, id).is_some()
}

fn host_id(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id())?;
        (offset < mapping.size()).then(|| mapping.host_id().checked_add(offset))?
    })
}

/// Returns the id that the engine sees for a user of the container, if it is known.
pub(crate) fn host_uid(linux: &Linux, uid: u32) -> Option<u32> {
    let [(_, users), _] = mappings(linux);
    host_id(users, uid)
}

/// Returns the lines that `/proc/PID/uid_map` takes.
pub(crate) fn lines(mappings: &[LinuxIdMapping]) -> String {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    mappings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(json: serde_json::Value) -> Linux {
        serde_json::from_value(json).unwrap()
    }

    fn with(namespace: serde_json::Value, uids: &[[u32; 3]]) -> Linux {
        let map = |[container, host, size]: &[u32; 3]| serde_json::json!({"containerID": container, "hostID": host, "size": size});
        linux(serde_json::json!({
            "namespaces": [namespace],
            "uidMappings": uids.iter().map(map).collect::<Vec<_>>(),
            "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
        }))
    }

    fn new(uids: &[[u32; 3]]) -> Result<(), String> {
        validate(&with(serde_json::json!({"type": "user"}), uids)).map_err(|e| e.to_string())
    }

    #[test]
    fn ranges_are_checked() {
        new(&[[0, 1000, 1], [1, 100_000, 65536]]).unwrap();
        new(&[[1, 0, 1], [0, 1, 1]]).unwrap();
        new(&[[0, 0, u32::MAX]]).unwrap();
        let many: Vec<[u32; 3]> = (0..341).map(|id| [id, id, 1]).collect();
        new(&many[..340]).unwrap();
        for (uids, error) in [
            (&[][..], "linux.uidMappings is missing"),
            (&[[0, 5, 0]], "linux.uidMappings[0].size: it maps nothing"),
            (
                &[[0, 1, u32::MAX]],
                "linux.uidMappings[0].hostID: 4294967295 ids from 1 on are more than there are",
            ),
            (
                &[[0, 1000, 10], [9, 2000, 1]],
                "linux.uidMappings[1].containerID: ids of it are mapped twice",
            ),
            (
                &[[0, 1000, 10], [10, 990, 11]],
                "linux.uidMappings[1].hostID: ids of it are mapped twice",
            ),
            (
                &[[1, 1000, 10]],
                "linux.uidMappings: the container's id 0 isn't mapped, as which it is set up",
            ),
            (
                &many,
                "linux.uidMappings: 341 of them are over the kernel's limit of 340",
            ),
        ] {
            assert_eq!(new(uids).unwrap_err(), error);
        }
    }

    #[test]
    fn mappings_need_a_user_namespace_that_is_new() {
        let error = |namespace, uids: &[[u32; 3]]| {
            validate(&with(namespace, uids)).map_err(|e| e.to_string())
        };
        assert_eq!(
            error(serde_json::json!({"type": "pid"}), &[[0, 0, 1]]).unwrap_err(),
            "linux.uidMappings: it needs a user namespace, which the container lacks"
        );
        let joined = serde_json::json!({"type": "user", "path": "/proc/1/ns/user"});
        error(joined.clone(), &[[0, 0, 1]]).unwrap();
        error(joined, &[]).unwrap();
    }

    #[test]
    fn a_user_must_be_mapped() {
        let linux = with(
            serde_json::json!({"type": "user"}),
            &[[0, 1000, 1], [5, 2000, 2]],
        );
        let user = |user: serde_json::Value| {
            let process = serde_json::json!({"user": user, "cwd": "/", "args": ["x"]});
            let process: Process = serde_json::from_value(process).unwrap();
            validate_user(&linux, &process).map_err(|e| e.to_string())
        };
        user(serde_json::json!({"uid": 6, "gid": 0})).unwrap();
        for (json, error) in [
            (
                serde_json::json!({"uid": 7, "gid": 0}),
                "process.user.uid: 7 isn't mapped by linux.uidMappings",
            ),
            (
                serde_json::json!({"uid": 0, "gid": 1}),
                "process.user.gid: 1 isn't mapped by linux.gidMappings",
            ),
            (
                serde_json::json!({"uid": 0, "gid": 0, "additionalGids": [0, 9]}),
                "process.user.additionalGids[1]: 9 isn't mapped by linux.gidMappings",
            ),
        ] {
            assert_eq!(user(json).unwrap_err(), error);
        }
        assert_eq!(host_uid(&linux, 6), Some(2001));
        assert_eq!(host_uid(&linux, 4), None);
    }

    #[test]
    fn maps_are_as_the_kernel_takes_them() {
        let linux = with(
            serde_json::json!({"type": "user"}),
            &[[0, 1000, 1], [1, 5, 2]],
        );
        assert_eq!(lines(mappings(&linux)[0].1), "0 1000 1\n1 5 2\n");
    }
}
