//! The flags of `nacre exec`.

use std::path::PathBuf;

use clap::Args;

use super::words::id_and_rest;

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// An AF_UNIX socket that is sent the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// The process's working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// An environment variable, besides those of the container
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Give the process a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// The process's user and group, as numbers
    #[arg(long, short, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// A further group of the process's user
    #[arg(long, short = 'g', value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// A file with the process, as process is in config.json; the flags that describe one are
    /// without effect then
    #[arg(long, short, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Return once the process runs
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Write the process's pid to this file (with --isolation=vm that of the process on the host
    /// that stands for it)
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// An AF_UNIX socket that is sent a pidfd of the process whose pid that is
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// The process's SELinux label (refused in a VM, whose kernel has no SELinux)
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// The process's AppArmor profile (in a VM, whose kernel has no AppArmor, the container
    /// engines' own are left out and others refused)
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Keep the process from gaining privileges by an exec
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// A further capability for the process
    #[arg(long, short, value_name = "CAPABILITY")]
    pub(crate) cap: Vec<String>,
    /// Pass N more file descriptors on, from 3 up (a VM has no way to them)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// A cgroup below the container's for the process, with cgroup v1 of certain controllers
    /// (with --isolation=vm below the one that the container has in the guest)
    #[arg(long, value_name = "[CONTROLLERS:]CGROUP")]
    pub(crate) cgroup: Vec<String>,
    /// Start the process even if the container is paused: it waits until that is resumed
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// The container's id, and after it the program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_names = ["ID", "PROGRAM"],
        num_args = 1..
    )]
    words: Vec<String>,
}

impl Exec {
    /// The container's id, and what follows it.
    pub(crate) fn words(&self) -> (&str, &[String]) {
        id_and_rest(&self.words)
    }
}
