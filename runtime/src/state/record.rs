//! The record of a container.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use nacre_agent::{
    container::{Gate, Identity, cgroups::Cgroup},
    stats::Used,
};
use oci_spec::runtime::Hook;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Isolation, hypervisor::Hypervisor, rootfs::Upper, size::Size},
    id::Id,
};

use super::{error::StateError, status::Status};

/// What is recorded of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// The OCI runtime spec version of the container's `config.json`.
    pub(crate) oci_version: String,
    pub(crate) id: String,
    /// The bundle's directory.
    pub(crate) bundle: PathBuf,
    /// The root file system on the host.
    pub(crate) rootfs: PathBuf,
    /// When the container was created (RFC 3339).
    pub(crate) created: String,
    /// The user who created it.
    pub(crate) owner: u32,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub(crate) annotations: HashMap<String, String>,
    /// `hooks.poststart`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    /// `hooks.poststop`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
    pub(crate) by: By,
}

/// What isolates the container, and the details of that.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    Vm(VmRecord),
    Process(HostRecord),
}

/// A container in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VmRecord {
    /// The sandbox process.
    pub(crate) sandbox: Identity,
    /// The process that stands for the container, whose pid is given to others; `None` before there
    /// is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stand_in: Option<Identity>,
    /// The cgroup of the sandbox process and its VM, recorded before it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cgroup: Option<Cgroup>,
    /// The network namespace that is carried into the VM, unless it was made for the container:
    /// what is left in it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<PathBuf>,
    /// Which of its processes Landlock keeps from files: nothing else shows that.
    #[serde(default)]
    pub(crate) landlocked: Landlocked,
    /// What runs the VM.
    pub(crate) hypervisor: Hypervisor,
    pub(crate) size: Size,
    /// The container's memory limit, in bytes, as configured or last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_limit: Option<i64>,
    /// The guest kernel's release, once the guest has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guest_kernel: Option<String>,
    /// How many seconds the hooks that the guest runs at the container's start may take.
    #[serde(default)]
    pub(crate) start_hooks: u64,
    /// How far the container had come when this was written.
    pub(crate) progress: Progress,
    /// Whether its vCPUs are stopped until they are resumed.
    #[serde(default)]
    pub(crate) paused: bool,
    /// Where the container's writes to its root are kept; `None` if the root is the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upper: Option<Upper>,
    /// Whether the record outlives the container, until `nacre delete`.
    pub(crate) keep: bool,
    /// How it ended, which its sandbox process writes last. A sandbox process that has ended
    /// without writing this was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<End>,
}

/// Which of a VM's processes Landlock keeps from files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Landlocked {
    /// From all of them.
    pub(crate) monitor: bool,
    /// From those that aren't in the share.
    pub(crate) file_server: bool,
}

/// How a container in a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct End {
    /// The sandbox process's exit status.
    pub(crate) status: u8,
    /// What went wrong, if something other than the workload ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
    /// What the container has used in its guest, if that told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) used: Option<Used>,
}

/// How far a container in a VM has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Progress {
    /// Its VM is booting, or the container in it is being created.
    Creating,
    /// It is waiting in its VM to be started.
    Created,
    /// Its workload has been started.
    Started,
}

/// A container on the host's kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostRecord {
    /// The first process; `None` until it is ready. If whoever creates the container dies before
    /// that, the first process ends by itself.
    pub(crate) init: Option<Identity>,
    pub(crate) cgroup: Option<Cgroup>,
    /// Whether it has its own session keyring, which later processes join.
    pub(crate) own_keyring: bool,
}

impl Record {
    /// Returns what the container is isolated by.
    pub(crate) fn isolation(&self) -> Isolation {
        match self.by {
            By::Vm(_) => Isolation::Vm,
            By::Process(_) => Isolation::Process,
        }
    }

    /// Returns the pid of the process that stands for the container: its first process, or one on
    /// the host for a VM. `None` before there is one.
    pub(crate) fn pid(&self) -> Option<i32> {
        match &self.by {
            By::Vm(vm) => vm.stand_in.map(|stand_in| stand_in.pid),
            By::Process(process) => process.init.map(|init| init.pid),
        }
    }

    /// Returns the container's cgroup on the host, if it has one.
    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        match &self.by {
            By::Vm(vm) => vm.cgroup.as_ref(),
            By::Process(process) => process.cgroup.as_ref(),
        }
    }

    /// Returns whether this record and another are of the same container, not of two that had the
    /// id one after the other.
    pub(crate) fn is_of_same(&self, other: &Self) -> bool {
        match (&self.by, &other.by) {
            (By::Vm(ours), By::Vm(theirs)) => ours.sandbox == theirs.sandbox,
            (By::Process(ours), By::Process(theirs)) => ours.init == theirs.init,
            _ => false,
        }
    }

    /// Returns whether this is kept when the container has ended, until it is deleted: a container
    /// that never existed in full isn't worth keeping.
    pub(super) fn is_kept(&self) -> bool {
        match &self.by {
            By::Vm(vm) => self.is_to_be_deleted() && vm.progress != Progress::Creating,
            By::Process(process) => process.init.is_some(),
        }
    }

    /// Returns whether the container is due for deletion: it is kept for that, or it has hooks that
    /// follow a deletion, and whoever would have run them was killed.
    pub(super) fn is_to_be_deleted(&self) -> bool {
        match &self.by {
            By::Vm(vm) => vm.keep || !self.poststop.is_empty(),
            By::Process(_) => true,
        }
    }

    /// Returns whether this stays behind when the command of a VM is killed.
    pub(crate) fn outlives_its_command(&self) -> bool {
        self.is_kept() || !self.poststop.is_empty()
    }
}

impl VmRecord {
    /// A record that is enough for tests: small, created, and kept for its deletion.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            sandbox: Identity {
                pid: 1,
                start_time: 0,
            },
            stand_in: None,
            cgroup: None,
            network: None,
            landlocked: Landlocked::default(),
            hypervisor: Hypervisor::Kvm,
            size: Size {
                cpus: 1,
                memory: 64 << 20,
            },
            memory_limit: None,
            guest_kernel: None,
            start_hooks: 0,
            progress: Progress::Created,
            paused: false,
            upper: None,
            keep: true,
            end: None,
        }
    }

    /// Returns the status of the container `id`, whose sandbox process is alive.
    pub(super) fn status(&self, id: &Id) -> Result<Status, StateError> {
        Ok(match (self.progress, self.paused) {
            (Progress::Creating, false) => Status::Creating,
            (_, true) => Status::Paused,
            _ if is_frozen(&self.cgroup, id)? => Status::Paused,
            (Progress::Created, false) => Status::Created,
            (Progress::Started, false) => Status::Running,
        })
    }
}

impl HostRecord {
    /// Returns the status of the container `id`, which has its first process and the folder
    /// `folder`.
    pub(super) fn status(&self, folder: &Path, id: &Id) -> Result<Status, StateError> {
        if !self.init.is_some_and(|init| init.is_alive()) {
            return Ok(Status::Stopped);
        }
        Ok(match (is_frozen(&self.cgroup, id)?, Gate::exists(folder)) {
            (true, _) => Status::Paused,
            (false, true) => Status::Created,
            (false, false) => Status::Running,
        })
    }
}

/// Returns whether the cgroup of the container `id` is frozen, by one of nacre's commands or by
/// somebody else.
fn is_frozen(cgroup: &Option<Cgroup>, id: &Id) -> Result<bool, StateError> {
    let frozen = cgroup.as_ref().map_or(Ok(false), Cgroup::is_frozen);
    frozen.map_err(|source| StateError::Freezer {
        id: id.clone(),
        source: source.into(),
    })
}
