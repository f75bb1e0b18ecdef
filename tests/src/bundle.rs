//! Bundles: a root file system and a `config.json` that a test edits.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// A bundle under construction.
#[derive(Clone)]
pub struct Bundle {
    directory: PathBuf,
    config: Value,
}

impl Bundle {
    /// Makes a bundle in `directory` with a busybox root of the test's own, which can be written.
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

    /// Makes a bundle in `directory` for a root elsewhere, which it doesn't write to.
    pub fn read_only(directory: &Path, root: &Path) -> Self {
        let bundle = Self {
            directory: directory.to_owned(),
            config: default_config(root.to_str().unwrap()),
        };
        bundle.set("/root/readonly", true)
    }

    /// Returns the bundle's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the bundle's root directory, if it has one of its own.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// Sets the workload's arguments.
    pub fn args<S: AsRef<str>>(self, args: impl IntoIterator<Item = S>) -> Self {
        let args: Vec<Value> = args.into_iter().map(|a| a.as_ref().into()).collect();
        self.set("/process/args", args)
    }

    /// Makes a shell script the workload.
    pub fn shell(self, script: &str) -> Self {
        self.args(["/bin/sh", "-c", script])
    }

    /// Sets the value at a JSON pointer, and makes missing objects on the way there.
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

    /// Removes what is at a JSON pointer, which names a member of an object.
    pub fn remove(mut self, pointer: &str) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let removed = place(&mut self.config, parent)
            .as_object_mut()
            .unwrap()
            .remove(name);
        assert!(removed.is_some(), "no {pointer} to remove");
        self
    }

    /// Adds a mount.
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        let mount = json!({
            "destination": destination, "type": kind, "source": source, "options": options,
        });
        self.push("/mounts", mount)
    }

    /// Adds an annotation.
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

/// Returns the value at a JSON pointer, and makes missing members of objects.
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

/// What `runc spec` writes, without a terminal. The engine's own tests begin with it too
/// (`agent/tests/engine/bundle.rs`), but create containers of it themselves.
const RUNC_SPEC: &str = include_str!("../../agent/src/container/config/testdata/runc-spec.json");

/// Returns what callers commonly write: the container that `runc spec` describes, with a cgroup
/// namespace and without ambient capabilities, as newer versions of runc do it.
fn default_config(root: &str) -> Value {
    let mut config: Value = serde_json::from_str(RUNC_SPEC).unwrap();
    config["root"] = json!({ "path": root, "readonly": false });
    config["hostname"] = "nacre".into();
    let process = &mut config["process"];
    process["args"] = json!(["/bin/true"]);
    let capabilities = process["capabilities"].as_object_mut().unwrap();
    capabilities.remove("ambient");
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "cgroup" }));
    config
}
