//! A container's `config.json` as its guest gets it: what names something of the host's is
//! replaced by the guest's name for it, or refused.
//!
//! The root becomes the guest's root share, or an overlay over that; the sources of bind mounts
//! `mounts/N` of the other share. Namespaces are the guest's: where the configuration would share
//! one with the host, the container shares it with nothing but the guest's agent, which is more
//! isolation than was asked for.
//! The network is the exception: the container's namespace is the sandbox process's on the host,
//! and what is in it is carried into the guest. Only the host's own can't be.

mod bind_source;
pub(super) mod cpus;
mod devices;
pub(super) mod file_systems;
mod hooks;
pub(super) mod security_modules;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nacre_agent::{
    container::cgroups::{Cgroup, CgroupError},
    protocol::{OVERLAY, ROOT, SHARE},
};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};

use crate::id::Id;
use bind_source::SourceError;
use devices::NoSuchDevice;
use file_systems::NotServed;
use hooks::GuestHookError;

pub(super) use bind_source::Source;
pub(super) use security_modules::SecurityModuleError;

/// What the guest is given of the host's files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shared {
    /// The container's root.
    pub(super) root: PathBuf,
    /// Whether the container may not write to its root.
    pub(super) root_is_read_only: bool,
    /// Whether the container's root is an overlay over this one, which nothing writes to then.
    pub(super) root_is_base: bool,
    /// The sources of its bind mounts: the Nth is `mounts/N`.
    pub(super) binds: Vec<Source>,
    /// The programs of hooks: the Nth is `hooks/N`.
    pub(super) hooks: Vec<Source>,
}

/// Why a configuration can't be given to a guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestSpecError {
    #[error("root.path: {path}")]
    Root {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("root.path: {0} is not a directory")]
    RootIsNoDirectory(PathBuf),
    #[error(
        "root.path: {path} is in a file system of the type {kind}, which a VM isn't given; copy \
         the root to another"
    )]
    RootIsNotServed { path: PathBuf, kind: NotServed },
    #[error("root is missing")]
    NoRoot,
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Hook(#[from] GuestHookError),
    #[error(transparent)]
    Device(#[from] NoSuchDevice),
    #[error(transparent)]
    SecurityModule(#[from] SecurityModuleError),
    #[error(
        "linux.seccomp.listenerPath: a listener on the host is of no use to a VM, whose filters' \
         descriptors and processes' memory are the guest's"
    )]
    Listener,
    #[error("{0} isn't supported in a VM yet")]
    Unsupported(String),
    #[error(
        "linux.memoryPolicy: a VM's guest has a single memory node, and nothing to choose from"
    )]
    MemoryPolicy,
    #[error("linux.namespaces: a VM can't join the {kind} namespace {path}")]
    NamespacePath { kind: String, path: PathBuf },
    #[error(
        "linux.namespaces: there is no network namespace, and a VM can't use the host's network; \
         add {{\"type\": \"network\"}}"
    )]
    HostNetwork,
    #[error(
        "linux.resources.blockIO.{0}: the devices are the host's, which a VM's guest doesn't have"
    )]
    BlockDevice(&'static str),
    /// A limit that the guest, which has only cgroup v2, can't honour.
    #[error(transparent)]
    Resources(#[from] CgroupError),
}

/// What of a guest's machine its configuration depends on.
pub(super) struct Guest {
    pub(super) vcpus: u32,
    /// Whether there is an overlay over the root.
    pub(super) overlay: bool,
    /// Whether it can have virtual machines of its own, and so `/dev/kvm`.
    pub(super) nested: bool,
}

/// Translates the configuration of a bundle, which is in that directory, for a guest.
pub(super) fn translate(
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
    root.set_path(PathBuf::from(match guest.overlay {
        true => OVERLAY,
        false => ROOT,
    }));

    if let Some(process) = spec.process_mut() {
        security_modules::leave_out(process)?;
    }
    let linux = spec.linux().clone().unwrap_or_default();
    security_modules::refuse_label("linux.mountLabel", linux.mount_label())?;
    devices::check(linux.devices().as_deref().unwrap_or_default(), guest.nested)?;
    for (index, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        if let Some(source) = bind_source::take(directory, index, mount, &linux, guest.nested)? {
            let name = format!("mounts/{}", shared.binds.len());
            mount.set_source(Some(Path::new(SHARE).join(name)));
            shared.binds.push(source);
        }
    }

    if let Some(linux) = spec.linux_mut() {
        for namespace in linux.namespaces_mut().iter_mut().flatten() {
            // The sandbox process has joined it.
            namespace.set_path(None);
        }
        // The path is for the host's hierarchy. The guest's holds this container only.
        linux.set_cgroups_path(Some(Path::new("/").join(id.as_str())));
        if let Some(resources) = linux.resources_mut() {
            check_resources(resources)?;
            cpus::translate_cpuset(resources, guest.vcpus);
        }
    }
    Ok((spec, shared))
}

/// Refuses what the engine does for a container of this kernel, but not yet for one in a guest.
fn check_unsupported(spec: &Spec) -> Result<(), GuestSpecError> {
    let linux = spec.linux().as_ref();
    let devices = linux.and_then(|l| l.net_devices().as_ref());
    let seccomp = linux.and_then(|l| l.seccomp().as_ref());
    let listener = seccomp.and_then(|s| s.listener_path().as_ref());
    if listener.is_some_and(|path| !path.as_os_str().is_empty()) {
        return Err(GuestSpecError::Listener);
    }
    for (field, asks) in [(
        "linux.netDevices",
        devices.is_some_and(|devices| !devices.is_empty()),
    )] {
        if asks {
            return Err(GuestSpecError::Unsupported(field.to_owned()));
        }
    }
    if linux.is_some_and(|linux| linux.memory_policy().is_some()) {
        return Err(GuestSpecError::MemoryPolicy);
    }
    Ok(())
}

fn check_namespaces(spec: &Spec) -> Result<(), GuestSpecError> {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default();
    for namespace in namespaces {
        // Its network the guest is given as it is.
        if namespace.typ() != LinuxNamespaceType::Network
            && let Some(path) = namespace.path()
            && !path.as_os_str().is_empty()
        {
            return Err(GuestSpecError::NamespacePath {
                kind: namespace.typ().to_string(),
                path: path.clone(),
            });
        }
    }
    let has = |kind| namespaces.iter().any(|n| n.typ() == kind);
    if !has(LinuxNamespaceType::Network) {
        return Err(GuestSpecError::HostNetwork);
    }
    Ok(())
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

/// Refuses limits that a guest can't honour. A block device's number is the host's, and may be
/// that of another device in the guest, its disk's.
pub(super) fn check_resources(resources: &LinuxResources) -> Result<(), GuestSpecError> {
    Cgroup::validate_for_v2(resources)?;
    let Some(block_io) = resources.block_io() else {
        return Ok(());
    };
    let throttles = |devices: &Option<Vec<_>>| devices.as_ref().is_some_and(|d| !d.is_empty());
    let weighs = block_io.weight_device().as_ref();
    for (field, is_there) in [
        ("weightDevice", weighs.is_some_and(|d| !d.is_empty())),
        (
            "throttleReadBpsDevice",
            throttles(block_io.throttle_read_bps_device()),
        ),
        (
            "throttleWriteBpsDevice",
            throttles(block_io.throttle_write_bps_device()),
        ),
        (
            "throttleReadIOPSDevice",
            throttles(block_io.throttle_read_iops_device()),
        ),
        (
            "throttleWriteIOPSDevice",
            throttles(block_io.throttle_write_iops_device()),
        ),
    ] {
        if is_there {
            return Err(GuestSpecError::BlockDevice(field));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::{Value, json};

    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
        config: Value,
        nested: bool,
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
                        path: scene.path("rootfs"),
                        is_directory: true,
                        recursive: true,
                        read_only: true,
                        ids: None,
                    },
                    Source {
                        path: scene.path("file"),
                        is_directory: false,
                        recursive: false,
                        read_only: false,
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
    fn what_guests_lack_yet_is_refused_by_name() {
        let mut scene = Scene::new();
        scene.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        scene.config["linux"]["netDevices"] = json!({"eth0": {}});
        assert_eq!(
            scene.refusal(),
            "linux.netDevices isn't supported in a VM yet"
        );
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
