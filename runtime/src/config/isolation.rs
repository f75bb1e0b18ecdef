//! What a container is isolated by, and who decides that.

use std::{ffi::OsStr, path::Path};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::keys::ISOLATION;

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
    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Process => "process",
        }
    }

    /// Returns the isolation of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "vm" => Some(Self::Vm),
            "process" => Some(Self::Process),
            _ => None,
        }
    }

    /// Returns the isolation that a binary's name stands for, for callers that can choose nothing
    /// but a binary: `nacre-vm`, `nacre-process`.
    pub(crate) fn from_binary(argv0: Option<&OsStr>) -> Option<Self> {
        let name = Path::new(argv0?).file_name()?.to_str()?;
        Self::from_name(name.strip_prefix("nacre-")?)
    }
}

/// Who says what a container is isolated by, and what they say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Choice {
    /// `--isolation`.
    pub(crate) flag: Option<Isolation>,
    /// The container's annotation.
    pub(crate) annotation: Option<Isolation>,
    /// The binary's name.
    pub(crate) binary: Option<Isolation>,
    /// The configuration file.
    pub(crate) config: Option<Isolation>,
    /// Whether the configuration file lets an annotation choose less than a VM.
    pub(crate) annotation_may_lower: bool,
}

impl Choice {
    /// Returns the flag's choice, else the annotation's, else the binary name's, else the
    /// configuration file's, else a VM. The caller gets what was chosen, or an error.
    ///
    /// # Errors
    ///
    /// [`LessIsolation`]: some callers pass on the annotations of an image.
    pub(crate) fn isolation(self) -> Result<Isolation, LessIsolation> {
        let otherwise = self.binary.or(self.config).unwrap_or(Isolation::Vm);
        match (self.flag, self.annotation) {
            (Some(flag), _) => Ok(flag),
            (None, Some(Isolation::Process))
                if otherwise == Isolation::Vm && !self.annotation_may_lower =>
            {
                Err(LessIsolation)
            }
            (None, annotation) => Ok(annotation.unwrap_or(otherwise)),
        }
    }
}

/// An annotation asks for less isolation than the host is set up for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotations.{ISOLATION}: \"process\" is less than a VM, which the name nacre-vm, the \
     configuration file or the default asks for; --isolation=process gives it, and \
     annotation-may-lower-isolation = true in the configuration file lets annotations say so"
)]
pub(crate) struct LessIsolation;

#[cfg(test)]
mod tests {
    use super::{Isolation::*, *};

    #[test]
    fn the_nearest_choice_wins() {
        assert_eq!(Choice::default().isolation(), Ok(Vm));
        for (nearest, others) in [(Vm, Process), (Process, Vm)] {
            let (nearest, others) = (Some(nearest), Some(others));
            for (flag, annotation, binary, config) in [
                (nearest, others, others, others),
                (None, nearest, nearest, others),
                (None, None, nearest, others),
                (None, None, None, nearest),
            ] {
                let choice = Choice {
                    flag,
                    annotation,
                    binary,
                    config,
                    annotation_may_lower: false,
                };
                assert_eq!(choice.isolation().ok(), nearest, "{choice:?}");
            }
        }
    }

    #[test]
    fn an_annotation_may_ask_for_more_isolation_but_not_for_less() {
        for (annotation, otherwise, chosen) in [
            (Vm, Some(Process), Ok(Vm)),
            (Process, Some(Vm), Err(LessIsolation)),
            (Process, Some(Process), Ok(Process)),
            // Nothing else chooses, so the default is a VM.
            (Process, None, Err(LessIsolation)),
        ] {
            for (binary, config) in [(otherwise, None), (None, otherwise)] {
                let choice = Choice {
                    annotation: Some(annotation),
                    binary,
                    config,
                    ..Choice::default()
                };
                assert_eq!(choice.isolation(), chosen, "{choice:?}");
                let allowed = Choice {
                    annotation_may_lower: true,
                    ..choice
                };
                assert_eq!(allowed.isolation(), Ok(annotation), "{allowed:?}");
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
