//! What decides how a container runs, besides its `config.json`: the configuration file, and
//! the annotations that are nacre's own.

pub(crate) mod annotations;
pub(crate) mod bundle;
pub(crate) mod rootfs;
pub(crate) mod size;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    binary,
    isolation::{Isolation, vm::hypervisor::Preference},
};
use size::Bytes;

/// Where the configuration file is, unless `--config` says otherwise. It needn't exist.
const PATH: &str = "/etc/nacre/config.toml";

/// Where an installation keeps what a VM needs, when it isn't beside the `nacre` binary.
const LIBRARY: &str = "/usr/lib/nacre";

/// The configuration file, `/etc/nacre/config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// The isolation of containers for which nothing else says one.
    pub(crate) isolation: Option<Isolation>,
    pub(crate) vm: Vm,
}

/// The configuration file's `[vm]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Vm {
    /// What runs VMs for which nothing else says so.
    pub(crate) hypervisor: Option<Preference>,
    /// QEMU's binary.
    qemu: Option<PathBuf>,
    /// vCPUs of a VM whose container has neither annotation nor CPU limit.
    pub(crate) cpus: u32,
    /// Memory of a VM whose container has neither annotation nor memory limit.
    pub(crate) memory: Bytes,
    /// What the host gives a VM besides its guest's memory, page tables and files.
    pub(crate) overhead_memory: Option<Bytes>,
    /// Whether containers can make VMs of their own. If it is said that they can't, no annotation
    /// says otherwise.
    pub(crate) nested: Option<bool>,
    /// The guest kernel, an ELF `vmlinux`.
    kernel: Option<PathBuf>,
    /// The agent's static binary.
    agent: Option<PathBuf>,
    /// Seconds that a guest has from its start to its hello, and then for each answer until its
    /// container is created.
    boot_timeout: u64,
    /// Seconds that a guest has to show that it isn't frozen, when it is asked; 0 is for ever.
    watchdog: u64,
    /// Where the guest kernel's log is appended.
    pub(crate) console_log: Option<PathBuf>,
    /// What is done with the root of a container that has no annotation about it.
    pub(crate) rootfs: Option<rootfs::Kind>,
    /// The size of the disk that has what is written over a root.
    pub(crate) rootfs_disk: Option<Bytes>,
    /// The most guest memory for that, where there is no disk.
    pub(crate) rootfs_memory: Option<Bytes>,
    /// Where the images of disks are made.
    disk_directory: Option<PathBuf>,
}

impl Default for Vm {
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
        }
    }
}

/// Why the configuration file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("can't read the configuration file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("configuration file {path}: {message}")]
    Parse { path: PathBuf, message: String },
    #[error(transparent)]
    Annotation(#[from] annotations::AnnotationError),
    #[error(transparent)]
    Size(#[from] size::SizeError),
}

impl Config {
    /// Reads the file that `--config` names, or the default one if there is one.
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

impl Vm {
    /// QEMU's path.
    pub(crate) fn qemu(&self) -> PathBuf {
        let qemu = self.qemu.as_deref();
        qemu.unwrap_or(Path::new(nacre_vmm::qemu::DEFAULT_PATH))
            .into()
    }

    /// The guest kernel's path.
    pub(crate) fn kernel(&self) -> PathBuf {
        installed(self.kernel.as_deref(), "vmlinux")
    }

    /// The agent's path.
    pub(crate) fn agent(&self) -> PathBuf {
        installed(self.agent.as_deref(), "nacre-agent")
    }

    /// How long a guest that is asked for a word may say nothing; zero is for ever.
    pub(crate) fn watchdog(&self) -> Duration {
        Duration::from_secs(self.watchdog)
    }

    /// How long a guest may take to say hello, and to answer each request until its container is
    /// created.
    pub(crate) fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.boot_timeout)
    }
}

/// What is configured; else the file of that name beside this binary; else the installed one.
fn installed(configured: Option<&Path>, name: &str) -> PathBuf {
    configured
        .map(PathBuf::from)
        .or_else(|| binary::beside(name))
        .unwrap_or_else(|| Path::new(LIBRARY).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!((config.vm.cpus, config.vm.memory), (1, Bytes(256 << 20)));
    }

    #[test]
    fn every_key_is_taken() {
        let config = Config::parse(
            "isolation = \"vm\"\n[vm]\nhypervisor = \"auto\"\nqemu = \"/q\"\ncpus = 2\nmemory = \"1G\"\noverhead-memory = \"80M\"\nnested = true\nkernel = \"/k\"\n\
             agent = \"/a\"\nboot-timeout = 5\nwatchdog = 7\nconsole-log = \"/c\"\n\
             rootfs = \"overlay\"\nrootfs-disk = \"2G\"\nrootfs-memory = \"3M\"\ndisk-directory = \"/d\"\n",
        )
        .unwrap();
        assert_eq!(config.isolation, Some(Isolation::Vm));
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
        assert_eq!(config.vm.rootfs, Some(rootfs::Kind::Overlay));
        assert_eq!(config.vm.rootfs_disk, Some(Bytes(2 << 30)));
        assert_eq!(config.vm.rootfs_memory, Some(Bytes(3 << 20)));
        assert_eq!(config.vm.disk_directory.as_deref(), Some(Path::new("/d")));
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
