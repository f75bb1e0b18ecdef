//! What a container can be isolated by, and the choice of it.

mod console;
mod descriptors;
mod exec;
pub(crate) mod hooks;
pub(crate) mod pid_file;
pub(crate) mod process;
mod signals;
mod status_error;
pub(crate) mod vm;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::ValueEnum;
use nix::unistd::getuid;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::{
    config::annotations::ISOLATION,
    id::Id,
    log,
    state::{By, Record, Store},
};

pub(crate) use exec::{ExecRequest, exec_failed};
pub(crate) use status_error::StatusError;

/// What a container is isolated by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Isolation {
    /// A microVM of its own, with its own kernel
    Vm,
    /// The host kernel's namespaces and cgroups
    Process,
}

impl Isolation {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Process => "process",
        }
    }

    /// The isolation of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "vm" => Some(Self::Vm),
            "process" => Some(Self::Process),
            _ => None,
        }
    }

    /// The isolation that a binary's name stands for, for callers that can choose no more
    /// than a binary: `nacre-vm`, `nacre-process`.
    pub(crate) fn from_binary(argv0: Option<&OsStr>) -> Option<Self> {
        let name = Path::new(argv0?).file_name()?.to_str()?;
        Self::from_name(name.strip_prefix("nacre-")?)
    }

    /// Chooses: the flag, else the annotation, else the binary's name, else the configuration
    /// file, else a VM. What was chosen is what is given, or an error.
    ///
    /// # Errors
    ///
    /// [`LessIsolation`]: some callers pass on the annotations of an image.
    pub(crate) fn choose(
        flag: Option<Self>,
        annotation: Option<Self>,
        binary: Option<Self>,
        config: Option<Self>,
    ) -> Result<Self, LessIsolation> {
        let otherwise = binary.or(config);
        match (flag, annotation) {
            (Some(flag), _) => Ok(flag),
            (None, Some(Self::Process)) if otherwise == Some(Self::Vm) => Err(LessIsolation),
            (None, Some(annotation)) => Ok(annotation),
            (None, None) => Ok(otherwise.unwrap_or(Self::Vm)),
        }
    }
}

/// An annotation asks for less than what the host is set up for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotations.{ISOLATION}: \"process\" is less than the name nacre-vm, or the configuration \
     file, asks for; --isolation=process gives it"
)]
pub(crate) struct LessIsolation;

/// A container that a command found.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Vm(vm::Found<'a>),
    Process(process::Found<'a>),
}

impl<'a> Found<'a> {
    /// The one that a record is of.
    pub(crate) fn new(store: &Store, id: &Id, record: &'a Record) -> Self {
        let folder = store.folder(id);
        match &record.by {
            By::Vm(vm) => Self::Vm(vm::Found::new(record, vm, folder)),
            By::Process(process) => Self::Process(process::Found::new(record, process, folder)),
        }
    }
}

/// The record of a container that is about to be made. Paths in `spec` are absolute.
fn new_record(id: &Id, bundle: PathBuf, spec: &Spec, by: By) -> Record {
    let rootfs = spec.root().as_ref().map(|root| root.path().clone());
    let (poststart, poststop) = hooks::kept(spec);
    Record {
        oci_version: spec.version().clone(),
        id: id.to_string(),
        bundle,
        rootfs: rootfs.unwrap_or_default(),
        created: log::rfc3339(SystemTime::now()),
        owner: getuid().as_raw(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        poststart,
        poststop,
        by,
    }
}

#[cfg(test)]
mod tests {
    use super::{Isolation::*, *};

    #[test]
    fn the_nearest_choice_wins() {
        assert_eq!(Isolation::choose(None, None, None, None), Ok(Vm));
        assert_eq!(
            Isolation::choose(None, Some(Process), None, None),
            Ok(Process)
        );
        for (nearest, others) in [(Vm, Process), (Process, Vm)] {
            let (nearest, others) = (Some(nearest), Some(others));
            for (flag, annotation, binary, config) in [
                (nearest, others, others, others),
                (None, nearest, nearest, others),
                (None, None, nearest, others),
                (None, None, None, nearest),
            ] {
                let chosen = Isolation::choose(flag, annotation, binary, config);
                assert_eq!(chosen.ok(), nearest);
            }
        }
    }

    #[test]
    fn an_annotation_may_ask_for_more_isolation_but_not_for_less() {
        for (annotation, otherwise, chosen) in [
            (Vm, Process, Ok(Vm)),
            (Process, Vm, Err(LessIsolation)),
            (Process, Process, Ok(Process)),
        ] {
            for (binary, config) in [(Some(otherwise), None), (None, Some(otherwise))] {
                let outcome = Isolation::choose(None, Some(annotation), binary, config);
                assert_eq!(outcome, chosen, "{annotation:?} {otherwise:?}");
            }
        }
    }

    #[test]
    fn a_binarys_name_may_choose() {
        let of = |name: &str| Isolation::from_binary(Some(OsStr::new(name)));
        assert_eq!(of("/usr/bin/nacre-vm"), Some(Vm));
        assert_eq!(of("nacre-process"), Some(Process));
        for name in ["nacre", "nacre-", "nacre-x", "vm", "/nacre-vm/nacre", ""] {
            assert_eq!(of(name), None, "{name}");
        }
        assert_eq!(Isolation::from_binary(None), None);
    }
}
