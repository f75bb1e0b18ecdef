//! The flags of `nacre checkpoint` and `nacre restore`.

use std::{os::fd::RawFd, path::PathBuf};

use clap::{Args, ValueEnum};

/// What both take.
#[derive(Debug, Args)]
pub(crate) struct Criu {
    /// The directory with CRIU's image files [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    pub(crate) image_path: Option<PathBuf>,
    /// The directory for CRIU's working files and logs [default: that of the image files]
    #[arg(long, value_name = "DIR")]
    pub(crate) work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    pub(crate) tcp_established: bool,
    /// Allow UNIX sockets that are connected to the outside
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// Allow jobs of a shell outside
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// Handle file locks
    #[arg(long)]
    pub(crate) file_locks: bool,
    /// How CRIU treats cgroups
    #[arg(long, value_name = "MODE")]
    pub(crate) manage_cgroups_mode: Option<ManageCgroups>,
    /// A namespace that is made, but whose properties aren't restored: network
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) empty_ns: Vec<EmptyNamespace>,
    /// Remove what is twice in the images of memory
    #[arg(long)]
    pub(crate) auto_dedup: bool,
    /// Have memory pages carried when they are used
    #[arg(long)]
    pub(crate) lazy_pages: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ManageCgroups {
    Soft,
    Full,
    Strict,
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EmptyNamespace {
    Network,
}

#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    pub(crate) criu: Criu,
    /// The image files of a pre-dump that this one builds on, relative to --image-path
    #[arg(long, value_name = "DIR")]
    pub(crate) parent_path: Option<PathBuf>,
    /// Let the container run on
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Where CRIU writes a zero byte once it serves lazy pages
    #[arg(long, value_name = "FD", default_value_t = -1, allow_hyphen_values = true)]
    pub(crate) status_fd: RawFd,
    /// Where CRIU's page server is, which takes the memory
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) page_server: Option<String>,
    /// Dump memory only, and let the container run on
    #[arg(long)]
    pub(crate) pre_dump: bool,
    /// The container's id
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) criu: Criu,
    /// Not supported: terminals can't be restored
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// The directory with config.json and the root file system
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Return once the workload runs
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Write the pid of the container's first process to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Don't adopt what the workload leaves running outside of a pid namespace
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    /// Without effect: CRIU enters the root file system as it was entered before
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// The security profile of the restored processes
    #[arg(long, value_name = "TYPE:NAME")]
    pub(crate) lsm_profile: Option<String>,
    /// The security context of the restored mounts
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) lsm_mount_context: Option<String>,
    /// The container's id
    pub(crate) id: String,
}
