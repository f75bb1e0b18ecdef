//! Bundles: a root file system and a `config.json` that a test edits.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// A bundle in the making.
#[derive(Clone)]
pub struct Bundle {
    directory: PathBuf,
    config: Value,
}

impl Bundle {
    /// A bundle in `directory` with busybox as its root, which is the test's own and can be
    /// written.
    pub fn busybox(directory: &Path) -> Self {
        let root = directory.join("rootfs");
        if !root.exists() {
            make_busybox(&root);
        }
        Self {
            directory: directory.to_owned(),
            config: default_config("rootfs"),
        }
    }

    /// A bundle in `directory` for a root elsewhere, which it doesn't write to.
    pub fn read_only(directory: &Path, root: &Path) -> Self {
        let bundle = Self {
            directory: directory.to_owned(),
            config: default_config(root.to_str().unwrap()),
        };
        bundle.set("/root/readonly", true)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its root directory, if it has one of its own.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// The workload's arguments.
    pub fn args<S: AsRef<str>>(self, args: impl IntoIterator<Item = S>) -> Self {
        let args: Vec<Value> = args.into_iter().map(|a| a.as_ref().into()).collect();
        self.set("/process/args", args)
    }

    /// A shell script as the workload.
    pub fn shell(self, script: &str) -> Self {
        self.args(["/bin/sh", "-c", script])
    }

    /// Puts a value at a JSON pointer, making the objects on the way there.
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        *place(&mut self.config, pointer) = value.into();
        self
    }

    /// Appends a value to the array at a JSON pointer.
    pub fn push(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let array = place(&mut self.config, pointer);
        if array.is_null() {
            *array = json!([]);
        }
        array.as_array_mut().unwrap().push(value.into());
        self
    }

    /// Takes away what is at a JSON pointer, which names a member of an object.
    pub fn remove(mut self, pointer: &str) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let removed = place(&mut self.config, parent)
            .as_object_mut()
            .unwrap()
            .remove(name);
        assert!(removed.is_some(), "no {pointer} to remove");
        self
    }

    /// A mount.
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        let mount = json!({
            "destination": destination, "type": kind, "source": source, "options": options,
        });
        self.push("/mounts", mount)
    }

    /// An annotation.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        place(&mut self.config, "/annotations")[name] = value.into();
        self
    }

    /// Writes `config.json` and returns the bundle's directory.
    pub fn write(&self) -> &Path {
        let text = serde_json::to_vec_pretty(&self.config).unwrap();
        fs::write(self.directory.join("config.json"), text).unwrap();
        &self.directory
    }
}

/// The value at a JSON pointer; missing members of objects are made.
fn place<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
    pointer
        .split('/')
        .skip(1)
        .fold(value, |value, name| match value {
            Value::Array(array) => &mut array[name.parse::<usize>().unwrap()],
            object => &mut object[name],
        })
}

/// Makes a root with busybox and a link for each of its applets.
pub fn make_busybox(root: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.exists())
        .expect("busybox is there; install it with: apt-get install busybox-static");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let applets = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
}

/// What callers commonly write: the container that `runc spec` describes, without a
/// terminal.
fn default_config(root: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": root, "readonly": false },
        "hostname": "nacre",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            {
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options":
                    ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            },
            {
                "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"],
            },
            {
                "destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
            {
                "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
            },
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}
