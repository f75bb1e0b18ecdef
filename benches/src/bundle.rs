//! A bundle with busybox and a command to run.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const BUSYBOX: &str = "/bin/busybox";

/// The container that a bundle is made for.
pub(crate) struct Container<'a> {
    /// A command of busybox, or a program in the root file system.
    args: &'a [&'a str],
    /// The network namespace to join; a new one otherwise.
    network: Option<&'a Path>,
}

impl<'a> Container<'a> {
    pub(crate) fn of(args: &'a [&'a str]) -> Self {
        Self {
            args,
            network: None,
        }
    }

    pub(crate) fn in_network(self, namespace: &'a Path) -> Self {
        Self {
            network: Some(namespace),
            ..self
        }
    }
}

/// An OCI bundle on disk.
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
}

impl Bundle {
    /// Makes a bundle whose workload is a command of busybox.
    pub(crate) fn create(path: &Path, args: &[&str]) -> Result<Self, Box<dyn Error>> {
        Self::of(path, &Container::of(args))
    }

    /// Makes a container's bundle.
    pub(crate) fn of(path: &Path, container: &Container<'_>) -> Result<Self, Box<dyn Error>> {
        let args = container.args;
        let rootfs = path.join("rootfs");
        for directory in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(rootfs.join(directory))?;
        }
        fs::copy(BUSYBOX, rootfs.join("bin/busybox"))
            .map_err(|e| format!("{BUSYBOX}: {e} (Debian's busybox-static has it)"))?;
        let _ = symlink("busybox", rootfs.join("bin").join(args[0]));
        let network = match container.network {
            Some(path) => format!(r#"{{ "type": "network", "path": {path:?} }}"#),
            None => r#"{ "type": "network" }"#.to_owned(),
        };
        let args: Vec<String> = args.iter().map(|a| format!("{a:?}")).collect();
        let config = format!(
            r#"{{
  "ociVersion": "1.0.2",
  "root": {{ "path": "rootfs" }},
  "process": {{
    "args": [{}],
    "env": ["PATH=/bin"],
    "cwd": "/",
    "user": {{ "uid": 0, "gid": 0 }},
    "noNewPrivileges": true
  }},
  "mounts": [
    {{ "destination": "/proc", "type": "proc", "source": "proc" }},
    {{ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"] }},
    {{ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] }}
  ],
  "linux": {{
    "namespaces": [
      {{ "type": "pid" }}, {{ "type": "mount" }}, {{ "type": "uts" }},
      {{ "type": "ipc" }}, {network}
    ],
    "maskedPaths": ["/proc/kcore"],
    "readonlyPaths": ["/proc/sys"]
  }}
}}
"#,
            args.join(", ")
        );
        fs::write(path.join("config.json"), config)?;
        Ok(Self {
            path: path.to_path_buf(),
        })
    }

    /// Returns its path, as a command's argument.
    pub(crate) fn path(&self) -> Result<&str, &'static str> {
        self.path.to_str().ok_or("the bundle's path isn't text")
    }
}
