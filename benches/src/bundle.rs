//! A bundle with busybox and a few words to run.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const BUSYBOX: &str = "/bin/busybox";

/// An OCI bundle on disk.
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
}

impl Bundle {
    /// Makes a bundle whose workload is a command of busybox.
    pub(crate) fn create(path: &Path, args: &[&str]) -> Result<Self, Box<dyn Error>> {
        let rootfs = path.join("rootfs");
        for directory in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(rootfs.join(directory))?;
        }
        fs::copy(BUSYBOX, rootfs.join("bin/busybox"))
            .map_err(|e| format!("{BUSYBOX}: {e} (Debian's busybox-static has it)"))?;
        let _ = symlink("busybox", rootfs.join("bin").join(args[0]));
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
      {{ "type": "ipc" }}, {{ "type": "network" }}
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
}
