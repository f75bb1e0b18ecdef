//! The command line. Flags have runc's names and meanings, so that what calls runc can call
//! nacre.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::isolation::Isolation;

const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

const AFTER_HELP: &str = "\
Isolation: --isolation, else the annotation dev.nacre.isolation, else the name that nacre was
called by (nacre-vm, nacre-process), else the configuration file, else vm. What was asked for
is what one gets, or an error.

Size of a VM (dev.nacre.vm.cpus and dev.nacre.vm.memory are annotations in config.json):
  vCPUs   dev.nacre.vm.cpus, else the container's CPU limits (quota/period rounded up, the
          number of CPUs in its cpuset, the smaller of both), else the configuration file, else 1
  memory  dev.nacre.vm.memory (bytes, or with K, M, G), else the container's memory limit and
          room for the guest's kernel, else the configuration file, else 256M; at least 64M

The configuration file, /etc/nacre/config.toml, with its defaults; every key may be left out,
and an unknown one is an error:
  isolation = \"vm\"
  [vm]
  cpus = 1
  memory = \"256M\"
  kernel = \"vmlinux\"        # beside the nacre binary, else /usr/lib/nacre/vmlinux
  agent = \"nacre-agent\"     # beside the nacre binary, else /usr/lib/nacre/nacre-agent
  boot-timeout = 30         # seconds until the guest must have said hello
  console-log = \"FILE\"      # where the guest kernel's log is appended; nowhere by default";

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
    /// Where the state of containers is kept
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/nacre")]
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
    /// What a container is isolated by
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) isolation: Option<Isolation>,
    /// The configuration file; it must exist if it is given [default: /etc/nacre/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// time="…" level=error msg="…"
    Text,
    /// {"level":"error","msg":"…","time":"…"}
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a container, start it and wait for its end
    Run(Run),
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

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The directory with config.json and the root file system
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Return once the workload runs; its state stays until `nacre delete`
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Write the pid of the container's sandbox process to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Keep the container's state after its end, until `nacre delete`
    #[arg(long)]
    pub(crate) keep: bool,
    /// Not supported yet, as terminals aren't
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Not supported yet, unless 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Without effect in a VM, where pivot_root always works
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Without effect in a VM, where there is no keyring of the caller's
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Without effect: nacre never becomes a subreaper
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    /// The container's id
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// The directory to write config.json into
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
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

#[derive(Debug, Args)]
pub(crate) struct Container {
    /// The container's id
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The form of the list
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
    /// Print ids only
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// For a person
    Table,
    /// For a program
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The container's id
    pub(crate) id: String,
    /// The signal's name, with or without SIG, or its number: KILL, INT, TERM, HUP, QUIT, USR1,
    /// USR2 or WINCH
    #[arg(default_value = "TERM")]
    pub(crate) signal: String,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The container's id
    pub(crate) id: String,
    /// Kill the container if it runs; no error if there is no such container
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

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
        assert!(run.detach && run.keep && run.no_pivot && run.no_new_keyring && run.no_subreaper);
        assert_eq!((run.preserve_fds, run.id.as_str()), (2, "a"));
    }
}
