//! The command line. Flags have runc's names and meanings, so that what calls runc can call
//! nacre.

mod checkpoint;
mod container;
mod events;
mod exec;
mod update;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::unistd::geteuid;

use crate::isolation::{Isolation, vm::hypervisor::Hypervisor};

pub(crate) use checkpoint::{Checkpoint, Criu, ManageCgroups, Restore};
pub(crate) use container::{Container, Create, Delete, Kill, List, Ps, Run};
pub(crate) use events::Events;
pub(crate) use exec::Exec;
pub(crate) use update::{Limit, Update};

const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

const AFTER_HELP: &str = "\
Isolation: --isolation, else the annotation dev.nacre.isolation, else the name that nacre was
called by (nacre-vm, nacre-process), else the configuration file, else vm. What was asked for
is what one gets, or an error; an annotation can't ask for less than the name or the file.

Hypervisor of a VM: --hypervisor, else the annotation dev.nacre.vm.hypervisor, else the
configuration file, else kvm. qemu emulates the processor, for hosts whose KVM can't be used: it
is slow, and needs Debian's package qemu-system-x86. auto, in the configuration file only, is kvm
where that can run a guest, else qemu, with a warning.

Size of a VM (dev.nacre.vm.cpus and dev.nacre.vm.memory are annotations in config.json):
  vCPUs   dev.nacre.vm.cpus, else the container's CPU limits (quota/period rounded up, the
          number of CPUs in its cpuset, the smaller of both), else the configuration file, else 1
  memory  dev.nacre.vm.memory (bytes, or with K, M, G), else the container's memory limit and
          room for the guest's kernel, else the configuration file, else 256M; at least 64M

Virtual machines in a VM's container: dev.nacre.vm.nested (\"true\" or \"false\"), else the configuration
file, else none. Where the file says false, no annotation says true.

Root of a VM's container (annotations, else the configuration file):
  dev.nacre.vm.rootfs          shared: the host's directory; or overlay: that is only read, and
                               what the container writes ends with it
  dev.nacre.vm.rootfs.memory   of an overlay, the most guest memory for it, half by default
  dev.nacre.vm.rootfs.disk     or the size of a disk for it

The configuration file, /etc/nacre/config.toml, with its defaults; every key may be left out,
and an unknown one is an error:
  isolation = \"vm\"
  [vm]
  hypervisor = \"kvm\"           # or \"qemu\", or \"auto\"
  qemu = \"/usr/bin/qemu-system-x86_64\"
  cpus = 1
  memory = \"256M\"
  boot-timeout = 30            # seconds for the guest's hello, its network, its container, each
  watchdog = 60                # seconds that it may say nothing from then on; 0 is for ever
  rootfs = \"shared\"            # or \"overlay\"
  disk-directory = \"/var/tmp\"  # where the images of disks are made
and, without a fixed default:
  kernel = \"FILE\"              # vmlinux beside the nacre binary, else in /usr/lib/nacre
  agent = \"FILE\"               # nacre-agent in the same places
  nested = false               # no VMs in containers, whatever annotations say; true: in all
  overhead-memory = \"SIZE\"     # what a VM may take besides its size: 64M, with QEMU 256M
  rootfs-memory = \"SIZE\"       # of overlays, or rootfs-disk = \"SIZE\": half of the guest's memory
  console-log = \"FILE\"         # where the guest kernel's log is appended: nowhere";

/// An OCI container runtime: each container in its own microVM, or on the host's kernel.
#[derive(Debug, Parser)]
#[command(name = "nacre", version = VERSION, after_long_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where the state of containers is kept; an ordinary user's is in $XDG_RUNTIME_DIR
    #[arg(long, global = true, value_name = "DIR", default_value_os_t = default_root())]
    pub(crate) root: PathBuf,
    /// Append errors and messages to this file too
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// The log file's format
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Write debug messages too
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Manage cgroups through systemd: linux.cgroupsPath is SLICE:PREFIX:NAME
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,
    /// Whether an ordinary user's container may go without a cgroup where there is no right to
    /// one (auto: it may; without effect with --isolation=vm, which needs root)
    // Before the command only, as with runc: `spec` has a flag of that name.
    #[arg(long, value_name = "WHETHER", default_value = "auto")]
    pub(crate) rootless: Rootless,
    /// The criu that checkpoint and restore use
    #[arg(long, global = true, value_name = "FILE", default_value = "criu")]
    pub(crate) criu: PathBuf,
    /// What a container is isolated by
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) isolation: Option<Isolation>,
    /// What runs a VM: the host's KVM unless something else is asked for
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) hypervisor: Option<Hypervisor>,
    /// The configuration file; it must exist if it is given [default: /etc/nacre/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `/run/nacre` is root's.
fn default_root() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty());
    match own {
        Some(directory) if !geteuid().is_root() => PathBuf::from(directory).join("nacre"),
        _ => PathBuf::from("/run/nacre"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// time="…" level=error msg="…"
    Text,
    /// {"level":"error","msg":"…","time":"…"}
    Json,
}

/// Whether a container may go without cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rootless {
    Auto,
    True,
    False,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a container, start it and wait for its end
    Run(Run),
    /// Create a container, up to its workload's start
    Create(Create),
    /// Start a created container's workload
    Start(Container),
    /// Start a further process in a container
    Exec(Exec),
    /// List a container's processes
    Ps(Ps),
    /// Stop all processes of a container, until they are resumed
    Pause(Container),
    /// Let the processes of a paused container go on
    Resume(Container),
    /// Change the limits of a container
    Update(Box<Update>),
    /// Tell what a container uses, and that it ran out of memory
    Events(Events),
    /// Write a container's state to files, through CRIU (refused of a VM)
    Checkpoint(Box<Checkpoint>),
    /// Make a container of such files, through CRIU (refused with --isolation=vm)
    Restore(Box<Restore>),
    /// Write a config.json to start from
    Spec(Spec),
    /// Print what this runtime supports, as JSON (OCI runtime spec, features.md)
    Features,
    /// Say whether this host can run containers, and what to do if it can't
    Doctor(Doctor),
    /// Print a container's state as JSON
    State(Container),
    /// List containers
    List(List),
    /// Send a signal to a container's first process
    Kill(Kill),
    /// Remove a container that has ended
    Delete(Delete),
}

/// A container's id and what follows it, which isn't nacre's to understand: even what looks like
/// a flag isn't one.
fn id_and_rest(words: &[String]) -> (&str, &[String]) {
    match words.split_first() {
        Some((id, rest)) => (id, rest),
        None => ("", &[]),
    }
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For a person
    Table,
    /// For a program
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// The directory to write config.json into
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Write one for a user without privileges (whose network is the host's: no VM takes it)
    #[arg(long)]
    pub(crate) rootless: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The form of the report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For a person
    Text,
    /// For a program
    Json,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use clap::CommandFactory;

    use super::*;
    use crate::config::{Config, annotations::Annotations};

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_version_of_the_spec_is_the_newest_known() {
        let spec = format!("\nspec: {}", crate::commands::OCI_VERSION);
        assert!(VERSION.ends_with(&spec));
    }

    #[test]
    fn the_help_and_the_readme_have_every_key_and_annotation() {
        let unknown = toml::from_str::<Config>("[vm]\nx = 1").unwrap_err();
        let keys = unknown.message().split('`').skip(3).step_by(2);
        let mut names: Vec<String> = keys.map(|key| format!("{key} = ")).collect();
        let unknown = HashMap::from([("dev.nacre.x".into(), String::new())]);
        let unknown = Annotations::parse(Some(&unknown)).unwrap_err().to_string();
        let words = unknown.split(|c: char| !(c.is_alphanumeric() || c == '.'));
        let annotations =
            words.filter(|word| word.starts_with("dev.nacre.") && !word.ends_with(".x"));
        names.extend(annotations.map(str::to_owned));
        assert!(names.contains(&"watchdog = ".into()), "{names:?}");
        assert!(names.contains(&"dev.nacre.vm.rootfs".into()), "{names:?}");
        for name in &names {
            assert!(AFTER_HELP.contains(name), "{name}");
            assert!(include_str!("../../../README.md").contains(name), "{name}");
        }
    }

    #[test]
    fn global_flags_are_taken_before_and_after_the_command() {
        for line in [
            ["nacre", "--isolation=vm", "run", "a"],
            ["nacre", "run", "--isolation=vm", "a"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.global.isolation, Some(Isolation::Vm));
        }
    }

    #[test]
    fn runs_flags_are_runcs() {
        let cli = Cli::try_parse_from([
            "nacre",
            "--root",
            "/r",
            "--log",
            "/l",
            "--log-format",
            "json",
            "--debug",
            "run",
            "-b",
            "/b",
            "-d",
            "--keep",
            "--no-pivot",
            "--no-new-keyring",
            "--no-subreaper",
            "--pid-file",
            "/p",
            "--preserve-fds",
            "2",
            "--console-socket",
            "/s",
            "a",
        ])
        .unwrap();
        assert_eq!(cli.global.log_format, LogFormat::Json);
        let Command::Run(run) = cli.command else {
            panic!()
        };
        let create = run.create;
        assert!(run.detach && run.keep && run.no_subreaper);
        assert!(create.no_pivot && create.no_new_keyring);
        assert_eq!((create.preserve_fds, create.id.as_str()), (2, "a"));
    }
}
