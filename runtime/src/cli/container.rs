//! The flags of the commands that make, end and look for containers.

use std::path::PathBuf;

use clap::Args;

use super::words::{Format, id_and_rest};

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The directory with config.json and the root file system
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// An AF_UNIX socket that is sent the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write the pid of the container's first process to this file (with --isolation=vm that of
    /// its sandbox process)
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// An AF_UNIX socket that is sent a pidfd of the process whose pid that is
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// Don't use pivot_root to enter the root file system, as where that is a ramdisk's (a VM
    /// never needs this)
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Leave the container in the caller's session keyring (of which a VM has none)
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Pass N more file descriptors on, from 3 up, after those of $LISTEN_FDS (a VM has no way
    /// to them)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// The container's id
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) create: Create,
    /// Return once the workload runs; its state stays until `nacre delete`
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Keep the container's state after its end, until `nacre delete`
    #[arg(long)]
    pub(crate) keep: bool,
    /// Don't adopt what the workload leaves running outside of a pid namespace (with
    /// --isolation=vm nacre never does)
    #[arg(long)]
    pub(crate) no_subreaper: bool,
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
    pub(crate) format: Format,
    /// Print ids only
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Send it to all processes of the container
    #[arg(long, short)]
    pub(crate) all: bool,
    /// The container's id
    pub(crate) id: String,
    /// The signal's name, with or without SIG, or its number
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

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// The form of the list
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
    /// The container's id, and after it arguments of ps [default: -ef], which makes the table
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_names = ["ID", "ARGUMENT"],
        num_args = 1..
    )]
    words: Vec<String>,
}

impl Ps {
    /// The container's id, and what follows it.
    pub(crate) fn words(&self) -> (&str, &[String]) {
        id_and_rest(&self.words)
    }
}
