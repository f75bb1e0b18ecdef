//! What is written down of a container.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use nacre_agent::container::{Gate, Identity, cgroups::Cgroup};
use oci_spec::runtime::Hook;
use serde::{Deserialize, Serialize};

use crate::{
    config::{rootfs::Upper, size::Size},
    id::Id,
    isolation::{Isolation, vm::hypervisor::Hypervisor},
};

use super::{StateError, Status};

/// What is kept of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// The version of the OCI runtime spec that the container's `config.json` is for.
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

/// What the container is isolated by, and what there is to know of that.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    Vm(Vm),
    Process(Process),
}

/// A container in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Vm {
    /// The sandbox process.
    pub(crate) sandbox: Identity,
    /// The process that stands for the container, whose pid others are given; `None` before there
    /// is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stand_in: Option<Identity>,
    /// The cgroup of the sandbox process and its VM, from before it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cgroup: Option<Cgroup>,
    /// The network namespace that is carried into the VM, if it isn't its own: what is left in
    /// it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<PathBuf>,
    /// What runs the VM.
    pub(crate) hypervisor: Hypervisor,
    pub(crate) size: Size,
    /// The container's limit on memory, in bytes, as it was configured or changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_limit: Option<i64>,
    /// The guest kernel's release, once the guest has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guest_kernel: Option<String>,
    /// How many seconds the hooks may take that the guest runs when the container starts.
    #[serde(default)]
    pub(crate) start_hooks: u64,
    /// How far the container had come when this was written.
    pub(crate) progress: Progress,
    /// Whether its vCPUs are stopped, until they are resumed.
    #[serde(default)]
    pub(crate) paused: bool,
    /// Where what the container writes to its root is kept; `None` if that is the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upper: Option<Upper>,
    /// Whether the record outlives the container, until `nacre delete`.
    pub(crate) keep: bool,
    /// How it ended, which its sandbox process writes last. If that has ended without, it was
    /// killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<End>,
}

/// How a VM's container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct End {
    /// The sandbox process's exit status.
    pub(crate) status: u8,
    /// What went wrong, if it wasn't the workload that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
}

/// How far a VM's container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Progress {
    /// Its VM is booting, or the container in it is being made.
    Creating,
    /// It waits in its VM to be started.
    Created,
    /// Its workload has been started.
    Started,
}

/// A container on the host's kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    /// The first process; `None` until it is ready. If whoever creates the container dies
    /// before that, it ends by itself.
    pub(crate) init: Option<Identity>,
    pub(crate) cgroup: Option<Cgroup>,
    /// Whether it has a session keyring of its own, which later processes join.
    pub(crate) own_keyring: bool,
}

impl Record {
    /// What the container is isolated by.
    pub(crate) fn isolation(&self) -> Isolation {
        match self.by {
            By::Vm(_) => Isolation::Vm,
            By::Process(_) => Isolation::Process,
        }
    }

    /// The process that stands for the container: its first, or one of the host's for a VM. `None`
    /// before it has one.
    pub(crate) fn pid(&self) -> Option<i32> {
        match &self.by {
            By::Vm(vm) => vm.stand_in.map(|stand_in| stand_in.pid),
            By::Process(process) => process.init.map(|init| init.pid),
        }
    }

    /// Whether this and another record are of the same container, not of two that had the id
    /// one after the other.
    pub(crate) fn is_of_same(&self, other: &Self) -> bool {
        match (&self.by, &other.by) {
            (By::Vm(ours), By::Vm(theirs)) => ours.sandbox == theirs.sandbox,
            (By::Process(ours), By::Process(theirs)) => ours.init == theirs.init,
            _ => false,
        }
    }

    /// Whether this stays when the container has ended, until it is deleted: one that never
    /// was there in full isn't worth keeping.
    pub(super) fn is_kept(&self) -> bool {
        match &self.by {
            By::Vm(vm) => self.is_to_be_deleted() && vm.progress != Progress::Creating,
            By::Process(process) => process.init.is_some(),
        }
    }

    /// Whether a deletion is due to the container: it is kept for one, or it has hooks that follow
    /// one, and whoever would have run them was killed.
    pub(super) fn is_to_be_deleted(&self) -> bool {
        match &self.by {
            By::Vm(vm) => vm.keep || !self.poststop.is_empty(),
            By::Process(_) => true,
        }
    }

    /// Whether this stays behind a VM whose command was killed.
    pub(crate) fn outlives_its_command(&self) -> bool {
        self.is_kept() || !self.poststop.is_empty()
    }
}

impl Vm {
    /// One that tests can do with: small, created, and kept for its deletion.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Vm {
            sandbox: Identity {
                pid: 1,
                start_time: 0,
            },
            stand_in: None,
            cgroup: None,
            network: None,
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

    /// How a container stands whose sandbox process lives.
    pub(super) fn status(&self) -> Status {
        match (self.paused, self.progress) {
            (true, _) => Status::Paused,
            (false, Progress::Creating) => Status::Creating,
            (false, Progress::Created) => Status::Created,
            (false, Progress::Started) => Status::Running,
        }
    }
}

impl Process {
    /// How the container `id` stands that has its first process, and this `folder`.
    pub(super) fn status(&self, folder: &Path, id: &Id) -> Result<Status, StateError> {
        if !self.init.is_some_and(|init| init.is_alive()) {
            return Ok(Status::Stopped);
        }
        let frozen = self.cgroup.as_ref().map_or(Ok(false), Cgroup::is_frozen);
        let frozen = frozen.map_err(|source| StateError::Freezer {
            id: id.clone(),
            source: source.into(),
        })?;
        Ok(match (frozen, Gate::exists(folder)) {
            (true, _) => Status::Paused,
            (false, true) => Status::Created,
            (false, false) => Status::Running,
        })
    }
}
