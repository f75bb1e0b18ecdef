//! What the guest may make of the shared files: what `config.json`, and `exec` later, allow the
//! container's processes, in the words of the file server, which enforces it.

use std::{ops::RangeInclusive, sync::Arc};

use nacre_vmm::devices::virtio::fs::{FileServer, FileServerError, Ids, Rights};
use oci_spec::runtime::{Capability, LinuxIdMapping, LinuxNamespaceType, Process, Spec};

/// Whoever enforces a policy.
pub(super) trait Enforcer {
    /// Refuses from now on what `rights` don't allow.
    fn enforce(&self, rights: Rights) -> Result<(), FileServerError>;

    /// Allows what `more` allows, too.
    fn widen(&self, more: Rights) -> Result<(), FileServerError>;
}

impl Enforcer for FileServer {
    fn enforce(&self, rights: Rights) -> Result<(), FileServerError> {
        Self::enforce(self, rights)
    }

    fn widen(&self, more: Rights) -> Result<(), FileServerError> {
        Self::widen(self, more)
    }
}

/// The policy of a container's share.
pub(super) struct FilePolicy {
    server: Arc<dyn Enforcer>,
    namespace: Option<UserNamespace>,
}

/// The host's ids that a user namespace of the container's own has.
#[derive(Debug)]
struct UserNamespace {
    users: Vec<RangeInclusive<u32>>,
    groups: Vec<RangeInclusive<u32>>,
}

impl FilePolicy {
    /// Makes the policy for a container of that configuration.
    pub(super) fn new(server: Arc<dyn Enforcer>, spec: &Spec) -> Self {
        Self {
            server,
            namespace: UserNamespace::find(spec),
        }
    }

    /// Has the policy enforced: the container has been made, and its process comes next.
    pub(super) fn enforce(&self, process: Option<&Process>) -> Result<(), FileServerError> {
        self.server.enforce(match process {
            Some(process) => self.rights(process),
            None => self.rights(&Process::default()),
        })
    }

    /// Allows what a process needs that a command has started in the container.
    pub(super) fn join(&self, process: &Process) -> Result<(), FileServerError> {
        self.server.widen(self.rights(process))
    }

    fn rights(&self, process: &Process) -> Rights {
        match &self.namespace {
            None => rights(process),
            Some(namespace) => namespace.rights(process),
        }
    }
}

/// Whether a process can get a capability: it, or a program that it executes, has it in one of its
/// sets.
fn can(process: &Process, capability: Capability) -> bool {
    let Some(sets) = process.capabilities() else {
        return false;
    };
    [
        sets.bounding(),
        sets.permitted(),
        sets.effective(),
        sets.inheritable(),
        sets.ambient(),
    ]
    .into_iter()
    .flatten()
    .any(|set| set.contains(&capability))
}

/// Returns the rights of a process in the guest's first user namespace.
fn rights(process: &Process) -> Rights {
    let can = |capability| can(process, capability);
    let administers = can(Capability::SysAdmin);
    // A set-user-id program makes anybody of its caller.
    let executes_set_id = !process.no_new_privileges().unwrap_or(false);
    let is_anybody = administers || executes_set_id || can(Capability::Chown);
    let user = process.user();
    let only = |ids: &mut dyn Iterator<Item = u32>| Ids::Only(ids.map(|id| id..=id).collect());
    let users = if is_anybody || can(Capability::Setuid) {
        Ids::Any
    } else {
        only(&mut [user.uid()].into_iter())
    };
    let groups = if is_anybody || can(Capability::Setgid) {
        Ids::Any
    } else {
        let more = user.additional_gids().iter().flatten().copied();
        only(&mut [user.gid()].into_iter().chain(more))
    };
    Rights {
        makes_devices: can(Capability::Mknod),
        administers,
        keeps_set_ids: can(Capability::Fsetid),
        acts_as_owner: can(Capability::Fowner),
        sets_capabilities: can(Capability::Setfcap),
        users,
        groups,
    }
}

impl UserNamespace {
    fn find(spec: &Spec) -> Option<Self> {
        let linux = spec.linux().as_ref()?;
        let mut namespaces = linux.namespaces().iter().flatten();
        if !namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
            return None;
        }
        let ranges = |mappings: &Option<Vec<LinuxIdMapping>>| {
            let mappings = mappings.iter().flatten();
            let mappings = mappings.filter(|mapping| mapping.size() > 0);
            mappings
                .map(|mapping| {
                    let first = mapping.host_id();
                    first..=first.saturating_add(mapping.size() - 1)
                })
                .collect()
        };
        Some(Self {
            users: ranges(linux.uid_mappings()),
            groups: ranges(linux.gid_mappings()),
        })
    }

    /// Returns the rights of a process in the namespace. Its capabilities are over the namespace's
    /// own users alone.
    fn rights(&self, process: &Process) -> Rights {
        let has_root = self.users.iter().any(|range| range.contains(&0));
        Rights {
            makes_devices: false,
            administers: false,
            keeps_set_ids: false,
            acts_as_owner: false,
            sets_capabilities: has_root && can(process, Capability::Setfcap),
            users: Ids::Only(self.users.clone()),
            groups: Ids::Only(self.groups.clone()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Enforces nothing.
    pub(in crate::isolation::vm::sandbox) struct Nobody;

    impl Enforcer for Nobody {
        fn enforce(&self, _rights: Rights) -> Result<(), FileServerError> {
            Ok(())
        }

        fn widen(&self, _more: Rights) -> Result<(), FileServerError> {
            Ok(())
        }
    }

    fn rights_of(process: Value, linux: Value) -> Rights {
        let mut spec = json!({"ociVersion": "1.0.2", "process": process, "linux": linux});
        spec["process"]["cwd"] = json!("/");
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let policy = FilePolicy::new(Arc::new(Nobody), &spec);
        policy.rights(spec.process().as_ref().unwrap())
    }

    fn only(ids: &[u32]) -> Ids {
        Ids::Only(ids.iter().map(|id| *id..=*id).collect())
    }

    #[test]
    fn a_user_without_ways_to_others_is_only_that_user() {
        let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [5]});
        let bound = json!({"user": user, "noNewPrivileges": true});
        let expected = Rights {
            makes_devices: false,
            administers: false,
            keeps_set_ids: false,
            acts_as_owner: false,
            sets_capabilities: false,
            users: only(&[1000]),
            groups: only(&[1001, 5]),
        };
        assert_eq!(rights_of(bound.clone(), json!({})), expected);

        // A set-user-id program of the image may be root's.
        let free = rights_of(json!({"user": user}), json!({}));
        assert_eq!((free.users, free.groups), (Ids::Any, Ids::Any));
        for (capability, users, groups) in [
            ("CAP_SETUID", Ids::Any, expected.groups.clone()),
            ("CAP_SETGID", expected.users.clone(), Ids::Any),
            ("CAP_CHOWN", Ids::Any, Ids::Any),
            ("CAP_SYS_ADMIN", Ids::Any, Ids::Any),
            ("CAP_KILL", expected.users.clone(), expected.groups.clone()),
        ] {
            for set in ["bounding", "permitted", "inheritable", "ambient"] {
                let mut process = bound.clone();
                process["capabilities"] = json!({set: [capability]});
                let found = rights_of(process, json!({}));
                assert_eq!((found.users, found.groups), (users.clone(), groups.clone()));
            }
        }
    }

    #[test]
    fn capabilities_are_rights() {
        let process = json!({
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_MKNOD", "CAP_FSETID", "CAP_FOWNER"]},
        });
        let found = rights_of(process, json!({}));
        assert!(found.makes_devices && found.keeps_set_ids && found.acts_as_owner);
        assert!(!found.administers && !found.sets_capabilities);
    }

    #[test]
    fn a_user_namespace_has_its_own_users_alone() {
        let process = json!({
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                "bounding": [
                    "CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SETFCAP", "CAP_FSETID", "CAP_FOWNER",
                ],
            },
        });
        let namespace = |first: u32| {
            let ids = json!([{"containerID": 0, "hostID": first, "size": 65536}]);
            json!({"namespaces": [{"type": "user"}], "uidMappings": ids, "gidMappings": ids})
        };
        let range = || Ids::Only(vec![100_000..=165_535]);
        assert_eq!(
            rights_of(process.clone(), namespace(100_000)),
            Rights {
                makes_devices: false,
                administers: false,
                keeps_set_ids: false,
                acts_as_owner: false,
                sets_capabilities: false,
                users: range(),
                groups: range(),
            }
        );
        assert!(rights_of(process.clone(), namespace(0)).sets_capabilities);
        let last = rights_of(process, namespace(u32::MAX));
        assert_eq!(last.users, Ids::Only(vec![u32::MAX..=u32::MAX]));
    }
}
