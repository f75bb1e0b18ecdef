//! A container's `config.json` as its guest gets it: names of things of the host are replaced by
//! the guest's names for them, or refused.
//!
//! The root becomes the guest's root share, or an overlay over that; the sources of bind mounts
//! become `mounts/N` of the other share. Namespaces are the guest's: where the configuration would
//! share one with the host, the container shares it only with the guest's agent, which is more
//! isolation than was asked for. The network is the exception: the container's namespace is the
//! sandbox process's on the host, and what is in it is carried into the guest. Only the host's own
//! namespace can't be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nacre_agent::{
    container::inherit_rlimits,
    protocol::{OVERLAY, ROOT, SHARE},
};
use oci_spec::runtime::Spec;

use crate::id::Id;

use super::{
    bind_source::{self, Taken},
    checks::{check_namespaces, check_resources, check_unsupported},
    cpus, devices,
    error::GuestSpecError,
    file_systems, hooks, security_modules,
    shared::Shared,
};

/// The properties of a guest's machine that its configuration depends on.
pub(in crate::isolation::vm) struct Guest {
    pub(in crate::isolation::vm) vcpus: u32,
    /// Whether there is an overlay over the root.
    pub(in crate::isolation::vm) overlay: bool,
    /// Whether it can have virtual machines of its own, and so `/dev/kvm`.
    pub(in crate::isolation::vm) nested: bool,
    /// Whether its caller is root of a user namespace only, where no host has rules about devices.
    pub(in crate::isolation::vm) of_ordinary_user: bool,
}

/// Translates the configuration of the bundle in that directory for a guest.
pub(in crate::isolation::vm) fn translate(
    directory: &Path,
    mut spec: Spec,
    id: &Id,
    guest: &Guest,
) -> Result<(Spec, Shared), GuestSpecError> {
    check_unsupported(&spec)?;
    check_namespaces(&spec)?;

    let hooks = hooks::take(&mut spec)?;
    let root = spec.root_mut().as_mut().ok_or(GuestSpecError::NoRoot)?;
    let mut shared = Shared {
        root: find_root(&directory.join(root.path()))?,
        root_is_read_only: root.readonly().unwrap_or(false),
        root_is_base: guest.overlay,
        binds: Vec::new(),
        hooks,
    };
    root.set_path(PathBuf::from(if guest.overlay { OVERLAY } else { ROOT }));

    if let Some(process) = spec.process_mut() {
        security_modules::leave_out(process)?;
        inherit_rlimits(process).map_err(GuestSpecError::Rlimits)?;
    }
    let linux = spec.linux().clone().unwrap_or_default();
    security_modules::refuse_label("linux.mountLabel", linux.mount_label())?;
    devices::check(linux.devices().as_deref().unwrap_or_default(), guest.nested)?;
    let mut bound_devices = Vec::new();
    for (index, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        match bind_source::take(directory, index, mount, &linux, guest.nested)? {
            Taken::Shared(source) => {
                let name = format!("mounts/{}", shared.binds.len());
                mount.set_source(Some(Path::new(SHARE).join(name)));
                shared.binds.push(source);
            }
            Taken::Device(number) => bound_devices.push(number),
            Taken::None => {}
        }
    }

    if let Some(linux) = spec.linux_mut() {
        for namespace in linux.namespaces_mut().iter_mut().flatten() {
            // The sandbox process has joined it.
            namespace.set_path(None);
        }
        // The path is for the host's hierarchy. The guest's holds only this container.
        linux.set_cgroups_path(Some(Path::new("/").join(id.as_str())));
        if let Some(resources) = linux.resources_mut() {
            check_resources(resources)?;
            cpus::translate_cpuset(resources, guest.vcpus);
        }
        if guest.of_ordinary_user && !bound_devices.is_empty() {
            let mut resources = linux.resources().clone().unwrap_or_default();
            devices::allow(&mut resources, &bound_devices);
            linux.set_resources(Some(resources));
        }
    }
    Ok((spec, shared))
}

fn find_root(path: &Path) -> Result<PathBuf, GuestSpecError> {
    let failed = |source| GuestSpecError::Root {
        path: path.into(),
        source,
    };
    let root = fs::canonicalize(path).map_err(failed)?;
    if !root.is_dir() {
        return Err(GuestSpecError::RootIsNoDirectory(root));
    }
    match file_systems::not_served_at(&root).map_err(failed)? {
        Some(kind) => Err(GuestSpecError::RootIsNotServed { path: root, kind }),
        None => Ok(root),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::{Value, json};

    use super::*;
    use crate::isolation::vm::guest_spec::source::{Origin, Source};

    struct Scene {
        directory: tempfile::TempDir,
        config: Value,
        nested: bool,
        of_ordinary_user: bool,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("rootfs")).unwrap();
            fs::write(directory.path().join("file"), "").unwrap();
            let config = json!({
                "ociVersion": "1.0.2",
                "root": {"path": "rootfs"},
                "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
                "linux": {
                    "namespaces": [{"type": "network"}, {"type": "mount"}, {"type": "pid"}],
                },
            });
            Self {
                directory,
                config,
                nested: false,
                of_ordinary_user: false,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            fs::canonicalize(self.directory.path()).unwrap().join(name)
        }

        fn translate(&self, vcpus: u32) -> Result<(Spec, Shared), GuestSpecError> {
            let spec = serde_json::from_value(self.config.clone()).unwrap();
            let id = Id::new("a").unwrap();
            let guest = Guest {
                vcpus,
                overlay: false,
                nested: self.nested,
                of_ordinary_user: self.of_ordinary_user,
            };
            translate(self.directory.path(), spec, &id, &guest)
        }

        fn refusal(&self) -> String {
            self.translate(1).unwrap_err().to_string()
        }
    }

    #[test]
    fn host_paths_become_guest_paths() {
        let mut scene = Scene::new();
        scene.config["root"]["readonly"] = json!(true);
        scene.config["linux"]["cgroupsPath"] = json!("machine.slice:libpod:x");
        scene.config["mounts"] = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/d", "type": "bind", "source": scene.path("rootfs"),
             "options": ["rbind", "ro"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/f", "type": "none", "source": "file", "options": ["bind,rw"]},
        ]);
        let (spec, shared) = scene.translate(1).unwrap();
        assert_eq!(
            shared,
            Shared {
                root: scene.path("rootfs"),
                root_is_read_only: true,
                root_is_base: false,
                binds: vec![
                    Source {
                        origin: Origin::Path(scene.path("rootfs")),
                        is_directory: true,
                        recursive: true,
                        options: vec!["rbind".to_owned(), "ro".to_owned()],
                        ids: None,
                    },
                    Source {
                        origin: Origin::Path(scene.path("file")),
                        is_directory: false,
                        recursive: false,
                        options: vec!["bind".to_owned(), "rw".to_owned()],
                        ids: None,
                    },
                ],
                hooks: Vec::new(),
            }
        );
        let spec = serde_json::to_value(spec).unwrap();
        assert_eq!(spec["root"]["path"], "/run/nacre/rootfs");
        let sources: Vec<&Value> = spec["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| &mount["source"])
            .collect();
        assert_eq!(
            sources,
            [
                "proc",
                "/run/nacre/share/mounts/0",
                "tmpfs",
                "/run/nacre/share/mounts/1"
            ]
        );
        assert_eq!(spec["linux"]["cgroupsPath"], "/a");
    }

    #[test]
    fn what_is_no_root_is_refused() {
        let mut scene = Scene::new();
        scene.config["root"]["path"] = json!("none");
        assert!(scene.refusal().starts_with("root.path: "));
        scene.config["root"]["path"] = json!("file");
        assert!(scene.refusal().ends_with("is not a directory"));
        scene.config["root"]["path"] = json!("/proc");
        let refusal = scene.refusal();
        assert!(
            refusal.contains("a file system of the type proc"),
            "{refusal}"
        );
        scene.config.as_object_mut().unwrap().remove("root");
        assert_eq!(scene.refusal(), "root is missing");
    }

    #[test]
    fn a_source_that_cannot_be_shared_is_refused_by_name() {
        let mut scene = Scene::new();
        let _socket = UnixListener::bind(scene.path("socket")).unwrap();
        nix::unistd::mkfifo(&scene.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (source, message) in [
            ("none", "mounts[0].source: "),
            ("socket", "is a socket, which"),
            ("fifo", "is a FIFO, which"),
            ("/proc/self", "is in a file system of the type proc"),
            ("/sys", "/sys is in a file system of the type sysfs"),
        ] {
            scene.config["mounts"] =
                json!([{"destination": "/m", "type": "bind", "source": source}]);
            assert!(scene.refusal().contains(message), "{}", scene.refusal());
        }
        scene.config["mounts"] = json!([{"destination": "/m", "type": "bind"}]);
        assert_eq!(scene.refusal(), "mounts[0].source is missing");
    }

    #[test]
    fn what_guests_lack_is_refused_by_name() {
        let mut scene = Scene::new();
        scene.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        scene.config["linux"]["netDevices"] = json!({"eth0": {}});
        let refusal = scene.refusal();
        assert!(refusal.starts_with("linux.netDevices: "), "{refusal}");
        scene.config["linux"]["netDevices"] = Value::Null;
        scene.config["linux"]["seccomp"]["listenerPath"] = "/run/x".into();
        let refusal = scene.refusal();
        assert!(
            refusal.starts_with("linux.seccomp.listenerPath: "),
            "{refusal}"
        );
        scene.config["linux"]["seccomp"] = Value::Null;
        scene.config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
        let refusal = scene.refusal();
        assert!(refusal.starts_with("linux.memoryPolicy: "), "{refusal}");
    }

    #[test]
    fn owners_are_mapped_on_this_side() {
        let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        for own in [true, false] {
            let mut scene = Scene::new();
            let mut mount = json!({"destination": "/m", "type": "bind", "source": "rootfs",
                                   "options": ["rbind,ridmap", "ro"]});
            if own {
                (mount["uidMappings"], mount["gidMappings"]) = (ids.clone(), ids.clone());
            } else {
                let linux = &mut scene.config["linux"];
                (linux["uidMappings"], linux["gidMappings"]) = (ids.clone(), ids.clone());
            }
            scene.config["mounts"] = json!([mount]);
            let (spec, shared) = scene.translate(1).unwrap();
            assert!(shared.binds[0].ids.is_some());
            let spec = serde_json::to_value(spec).unwrap();
            let options = &spec["mounts"][0]["options"];
            assert_eq!(*options, json!(["rbind", "ro"]));
            assert_eq!(spec["mounts"][0].get("uidMappings"), None);
        }
    }

    #[test]
    fn devices_are_the_guests_own() {
        let mut scene = Scene::new();
        scene.config["mounts"] =
            json!([{"destination": "/m", "type": "bind", "source": "/dev/null"}]);
        let fuse = json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229});
        scene.config["linux"]["devices"] = json!([fuse, {"path": "/dev/pipe", "type": "p"}]);
        let (spec, shared) = scene.translate(1).unwrap();
        assert_eq!(shared.binds, []);
        let spec = serde_json::to_value(spec).unwrap();
        assert_eq!(spec["mounts"][0]["source"], "/dev/null");
        // Root's rules are as they were asked for; an ordinary user has none but by this.
        assert_eq!(spec["linux"].get("resources"), None);
        scene.of_ordinary_user = true;
        let (spec, _) = scene.translate(1).unwrap();
        let spec = serde_json::to_value(spec).unwrap();
        let rules = &spec["linux"]["resources"]["devices"];
        let expected =
            json!([{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]);
        assert_eq!(*rules, expected);

        let disk = json!({"path": "/dev/sda", "type": "b", "major": 8, "minor": 0});
        scene.config["linux"]["devices"] = json!([fuse, disk]);
        let expected = "linux.devices[1]: /dev/sda (block 8:0) is a device of the host";
        assert!(scene.refusal().starts_with(expected), "{}", scene.refusal());
    }

    #[test]
    fn what_would_need_the_hosts_kernel_is_refused_by_name() {
        let mut scene = Scene::new();
        scene.config["linux"]["namespaces"] = json!([{"type": "ipc", "path": "/proc/7/ns/ipc"}]);
        assert_eq!(
            scene.refusal(),
            "linux.namespaces: a VM can't join the ipc namespace /proc/7/ns/ipc"
        );
        scene.config["linux"]["namespaces"] = json!([{"type": "mount"}]);
        assert!(scene.refusal().contains("host's network"));
        let mut scene = Scene::new();
        scene.config["linux"]["resources"] = json!({"memory": {"swappiness": 3}});
        assert!(scene.refusal().contains("memory.swappiness"));
    }

    #[test]
    fn a_block_device_of_the_hosts_is_refused_by_name() {
        let rate = json!([{"major": 254, "minor": 0, "rate": 1000, "weight": 500}]);
        for field in [
            "weightDevice",
            "throttleReadBpsDevice",
            "throttleWriteBpsDevice",
            "throttleReadIOPSDevice",
            "throttleWriteIOPSDevice",
        ] {
            let mut scene = Scene::new();
            scene.config["linux"]["resources"] = json!({"blockIO": {field: rate}});
            assert!(scene.refusal().contains(field), "{}", scene.refusal());
            scene.config["linux"]["resources"] = json!({"blockIO": {field: []}});
            scene.translate(1).unwrap();
        }
    }
}
