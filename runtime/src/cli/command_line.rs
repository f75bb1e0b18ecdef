//! The command line. Flags have runc's names and meanings, so that what calls runc can call
//! nacre.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use nacre_agent::container::in_user_namespace;
use nix::unistd::geteuid;

use crate::{
    config::{Isolation, hypervisor::Hypervisor},
    log::LogFormat,
};

use super::{
    checkpoint::{Checkpoint, Restore},
    compare::{Boot, Compare},
    container::{Container, Create, Delete, Kill, List, Ps, Run},
    doctor::Doctor,
    events::Events,
    exec::Exec,
    help::AFTER_HELP,
    spec::Spec,
    top::Top,
    update::Update,
};

const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

/// An OCI container runtime: each container in its own microVM, or on the host's kernel.
#[derive(Debug, Parser)]
#[command(name = "nacre", version = VERSION, after_long_help = AFTER_HELP)]
#[command(disable_version_flag = true)]
pub(crate) struct Cli {
    /// Print the version
    #[arg(long, short, short_alias = 'V', action = ArgAction::Version)]
    version: (),
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
    /// one (auto: it may; without effect with --isolation=vm)
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
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    // As runc has it: callers like Podman have made a user namespace for an ordinary user, whereas
    // one with a root of its own is a host of its own.
    let is_root = geteuid().is_root()
        && (!in_user_namespace() || variable("USER").is_some_and(|user| user == "root"));
    match variable("XDG_RUNTIME_DIR") {
        Some(directory) if !is_root => PathBuf::from(directory).join("nacre"),
        _ => PathBuf::from("/run/nacre"),
    }
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
    /// Show what running containers cost the host, again and again
    Top(Top),
    /// Print what a container's own kernel has logged (with --isolation=vm)
    Console(Container),
    /// Run a bundle's workload once, and show the phases of its start
    Boot(Boot),
    /// Run a bundle's workload in both modes, and show what each costs and what differs
    Compare(Compare),
    /// Print what a process reaches of its kernel, as JSON: what compare runs inside
    #[command(hide = true)]
    Probe,
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
    fn the_help_and_the_page_have_every_key_and_annotation() {
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
            let page = include_str!("../../../docs/configuration.md");
            assert!(page.contains(name), "{name}");
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
