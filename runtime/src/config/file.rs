//! The settings that decide how a container runs, besides its `config.json`: the configuration file
//! and nacre's own annotations.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::binary;

use super::{
    asked_rate::AskedRate, bytes::Bytes, error::ConfigError, hypervisor::Preference,
    isolation::Isolation, root_kind::RootKind,
};

/// The configuration file, unless `--config` says otherwise. It needn't exist.
const PATH: &str = "/etc/nacre/config.toml";

/// Where an installation keeps what a VM needs, unless it is beside the `nacre` binary.
const LIBRARY: &str = "/usr/lib/nacre";

/// The configuration file, `/etc/nacre/config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// The isolation of containers for which nothing else specifies one.
    pub(crate) isolation: Option<Isolation>,
    /// Whether an annotation may give a container less isolation than it would have otherwise.
    pub(crate) annotation_may_lower_isolation: bool,
    pub(crate) vm: VmSettings,
}

/// The configuration file's `[vm]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct VmSettings {
    /// What runs VMs for which nothing else specifies it.
    pub(crate) hypervisor: Option<Preference>,
    /// The path of QEMU's binary.
    qemu: Option<PathBuf>,
    /// The vCPUs of a VM whose container has neither annotation nor CPU limit.
    pub(crate) cpus: u32,
    /// The memory of a VM whose container has neither annotation nor memory limit.
    pub(crate) memory: Bytes,
    /// The memory that the host gives a VM in addition to its guest's memory, page tables and
    /// files.
    pub(crate) overhead_memory: Option<Bytes>,
    /// Whether containers can make VMs of their own. If this is false, no annotation overrides it.
    pub(crate) nested: Option<bool>,
    /// The guest kernel, an ELF `vmlinux`.
    kernel: Option<PathBuf>,
    /// The agent's static binary.
    agent: Option<PathBuf>,
    /// How many seconds a guest has from its start to its hello, and then for each answer until its
    /// container is created.
    boot_timeout: u64,
    /// How many seconds a guest has to show on request that it isn't frozen; 0 means for ever.
    watchdog: u64,
    /// The file to which the guest kernel's log is appended.
    pub(crate) console_log: Option<PathBuf>,
    /// What is done with the root of a container that has no annotation about it.
    pub(crate) rootfs: Option<RootKind>,
    /// The size of the disk for what is written over a root.
    pub(crate) rootfs_disk: Option<Bytes>,
    /// The most guest memory for that, if there is no disk.
    pub(crate) rootfs_memory: Option<Bytes>,
    /// Where the images of disks are created.
    pub(super) disk_directory: Option<PathBuf>,
    /// How much each VM may do with its disk, with the host's files, and with its networks in each
    /// direction.
    pub(super) disk_limit: AskedRate,
    pub(super) files_limit: AskedRate,
    pub(super) network_limit: AskedRate,
}

impl Default for VmSettings {
    fn default() -> Self {
        Self {
            hypervisor: None,
            qemu: None,
            cpus: 1,
            memory: Bytes(256 << 20),
            overhead_memory: None,
            nested: None,
            kernel: None,
            agent: None,
            boot_timeout: 30,
            watchdog: 60,
            console_log: None,
            rootfs: None,
            rootfs_disk: None,
            rootfs_memory: None,
            disk_directory: None,
            disk_limit: AskedRate::default(),
            files_limit: AskedRate::default(),
            network_limit: AskedRate::default(),
        }
    }
}

impl Config {
    /// Reads the file that `--config` names, or the default one if it exists.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, required) = match path {
            Some(path) => (path, true),
            None => (Path::new(PATH), false),
        };
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|message| ConfigError::Parse {
                path: path.into(),
                message,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !required => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read {
                path: path.into(),
                source,
            }),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| {
                text.bytes()
                    .take(span.start)
                    .filter(|b| *b == b'\n')
                    .count()
                    + 1
            });
            format!("line {line}: {}", e.message())
        })
    }
}

impl VmSettings {
    /// Returns QEMU's path.
    pub(crate) fn qemu(&self) -> PathBuf {
        let qemu = self.qemu.as_deref();
        qemu.unwrap_or(Path::new(nacre_vmm::qemu::DEFAULT_PATH))
            .into()
    }

    /// Returns the guest kernel's path.
    pub(crate) fn kernel(&self) -> PathBuf {
        installed(self.kernel.as_deref(), "vmlinux")
    }

    /// Returns the agent's path.
    pub(crate) fn agent(&self) -> PathBuf {
        installed(self.agent.as_deref(), "nacre-agent")
    }

    /// Returns how long a guest may take to answer a ping; zero means for ever.
    pub(crate) fn watchdog(&self) -> Duration {
        Duration::from_secs(self.watchdog)
    }

    /// Returns how long a guest may take to say hello, and to answer each request until its
    /// container is created.
    pub(crate) fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.boot_timeout)
    }
}

/// Returns what is configured; else the file of that name beside this binary; else the installed
/// one.
fn installed(configured: Option<&Path>, name: &str) -> PathBuf {
    configured
        .map(PathBuf::from)
        .or_else(|| binary::beside(name))
        .unwrap_or_else(|| Path::new(LIBRARY).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_KEY: &str = r#"isolation = "vm"
annotation-may-lower-isolation = true
[vm]
hypervisor = "auto"
qemu = "/q"
cpus = 2
memory = "1G"
overhead-memory = "80M"
nested = true
kernel = "/k"
agent = "/a"
boot-timeout = 5
watchdog = 7
console-log = "/c"
rootfs = "overlay"
rootfs-disk = "2G"
rootfs-memory = "3M"
disk-directory = "/d"
disk-limit = { bandwidth = "4M", operations = 500 }
files-limit = { bandwidth = "6M", operations = 700 }
network-limit = { bandwidth = "8M", operations = 900 }
"#;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!((config.vm.cpus, config.vm.memory), (1, Bytes(256 << 20)));
    }

    #[test]
    fn every_key_is_taken() {
        let config = Config::parse(EVERY_KEY).unwrap();
        assert_eq!(config.isolation, Some(Isolation::Vm));
        assert!(config.annotation_may_lower_isolation);
        assert_eq!((config.vm.cpus, config.vm.memory), (2, Bytes(1 << 30)));
        assert_eq!(config.vm.overhead_memory, Some(Bytes(80 << 20)));
        assert_eq!(config.vm.hypervisor, Some(Preference::Auto));
        assert_eq!(config.vm.nested, Some(true));
        assert_eq!(config.vm.qemu(), Path::new("/q"));
        assert_eq!(config.vm.kernel(), Path::new("/k"));
        assert_eq!(config.vm.agent(), Path::new("/a"));
        assert_eq!(config.vm.boot_timeout(), Duration::from_secs(5));
        assert_eq!(config.vm.watchdog(), Duration::from_secs(7));
        assert_eq!(config.vm.console_log.as_deref(), Some(Path::new("/c")));
        assert_eq!(config.vm.rootfs, Some(RootKind::Overlay));
        assert_eq!(config.vm.rootfs_disk, Some(Bytes(2 << 30)));
        assert_eq!(config.vm.rootfs_memory, Some(Bytes(3 << 20)));
        assert_eq!(config.vm.disk_directory.as_deref(), Some(Path::new("/d")));
        let limits = [
            &config.vm.disk_limit,
            &config.vm.files_limit,
            &config.vm.network_limit,
        ];
        for (limit, (mebibytes, operations)) in limits.iter().zip([(4, 500), (6, 700), (8, 900)]) {
            assert_eq!(limit.bandwidth, Some(Bytes(mebibytes << 20)));
            assert_eq!(limit.operations, Some(operations));
        }
    }

    #[test]
    fn the_page_has_every_key() {
        let page = include_str!("../../../docs/configuration.md");
        let (_, section) = page.split_once("\n## The configuration file\n").unwrap();
        let (_, file) = section.split_once("```toml\n").unwrap();
        let (file, _) = file.split_once("```").unwrap();
        assert_eq!(Config::parse(file).unwrap().vm.cpus, 1);
        for line in EVERY_KEY.lines() {
            let key = line.split(' ').next().unwrap();
            let shown = |line: &str| line.contains(&format!("{key} = ")) || line == key;
            assert!(file.lines().any(shown), "{key}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_line() {
        for (text, what) in [
            ("colour = 1\n", "line 1: unknown field `colour`"),
            (
                "[vm]\ncpus = 1\nram = \"1G\"\n",
                "line 3: unknown field `ram`",
            ),
            ("isolation = \"jail\"\n", "line 1: unknown variant `jail`"),
            ("[vm]\nmemory = \"much\"\n", "line 2: \"much\" isn't a size"),
            ("[vm]\ncpus = -1\n", "line 2: invalid value"),
            (
                "[vm]\ndisk-limit = { bytes = 1 }\n",
                "line 2: unknown field `bytes`",
            ),
            ("[vm\n", "line 1: "),
        ] {
            let message = Config::parse(text).unwrap_err();
            assert!(message.starts_with(what), "{text:?} gave {message:?}");
        }
    }

    #[test]
    fn a_file_that_is_named_must_exist() {
        assert!(matches!(
            Config::load(Some(Path::new("/nonexistent/nacre.toml"))),
            Err(ConfigError::Read { .. })
        ));
    }
}
