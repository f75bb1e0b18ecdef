//! What runs a VM, and how that is chosen: the host's KVM, or QEMU, which emulates the processor
//! where KVM can't be used. QEMU is slow, and a weaker boundary between guest and host than KVM
//! (docs/threat-model.md), so it is never chosen silently.

use std::path::Path;

use clap::ValueEnum;
use nacre_vmm::{KvmError, Qemu, QemuError, kvm};
use serde::{Deserialize, Serialize};

use crate::log::chain;

use super::keys::HYPERVISOR;

/// What runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Hypervisor {
    /// The host's KVM
    Kvm,
    /// QEMU, emulating the processor: slow, for hosts without a usable KVM
    Qemu,
}

/// What the configuration file says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Preference {
    Kvm,
    Qemu,
    /// KVM where it can run a stock kernel, QEMU where it can't.
    Auto,
}

/// Why the hypervisor that was asked for isn't available.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HypervisorError {
    #[error("{}; {}, or run the container emulated, with --hypervisor=qemu", chain(.0), kvm_remedy(.0))]
    Kvm(KvmError),
    #[error("{}; {}", chain(.0), qemu_remedy(.0))]
    Qemu(QemuError),
    #[error(
        "annotations.{HYPERVISOR}: \"qemu\" is a weaker wall than KVM, which is used where the \
         configuration file doesn't say hypervisor = \"qemu\"; --hypervisor=qemu gives it, and \
         annotation-may-lower-isolation = true in that file lets annotations say so"
    )]
    Annotation,
    #[error("{}; {}. Nor is there another: {}; {}", chain(.kvm), kvm_remedy(.kvm), chain(.qemu), qemu_remedy(.qemu))]
    Neither { kvm: KvmError, qemu: QemuError },
}

impl Hypervisor {
    /// All hypervisors.
    pub(crate) const ALL: [Self; 2] = [Self::Kvm, Self::Qemu];

    /// Returns those that can run a VM on this host; `qemu` is where QEMU is.
    pub(crate) fn usable(qemu: &Path) -> Vec<Self> {
        let can = |it: &Self| match it {
            Self::Kvm => kvm::check().is_ok(),
            Self::Qemu => Qemu::at(qemu).check().is_ok(),
        };
        Self::ALL.into_iter().filter(can).collect()
    }

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }

    /// Returns the hypervisor of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Returns what is asked for where no annotation is: by the flag, else by the configuration file;
    /// else KVM.
    pub(crate) fn preferred(flag: Option<Self>, config: Option<Preference>) -> Preference {
        match flag {
            Some(Self::Kvm) => Preference::Kvm,
            Some(Self::Qemu) => Preference::Qemu,
            None => config.unwrap_or(Preference::Kvm),
        }
    }
}

/// What asks for a hypervisor, the nearest first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HypervisorChoice {
    pub(crate) flag: Option<Hypervisor>,
    pub(crate) annotation: Option<Hypervisor>,
    pub(crate) config: Option<Preference>,
    /// Whether an annotation counts that asks for less of a wall than there would be otherwise.
    pub(crate) annotation_may_lower: bool,
}

impl HypervisorChoice {
    /// Returns what the nearest asks for; else KVM.
    ///
    /// # Errors
    ///
    /// [`HypervisorError::Annotation`]: some callers pass on the annotations of an image.
    pub(crate) fn preference(self) -> Result<Preference, HypervisorError> {
        let nearest = self.flag.or(self.annotation);
        let lowers = self.flag.is_none()
            && self.annotation == Some(Hypervisor::Qemu)
            && self.config != Some(Preference::Qemu);
        if lowers && !self.annotation_may_lower {
            return Err(HypervisorError::Annotation);
        }
        Ok(Hypervisor::preferred(nearest, self.config))
    }
}

impl Preference {
    /// Returns the hypervisor to use, which this host can run; `qemu` is where QEMU is.
    pub(crate) fn choose(self, qemu: &Path) -> Result<Hypervisor, HypervisorError> {
        self.choose_of(
            || kvm::check().map(drop),
            || Qemu::at(qemu).find(),
            |reason| {
                tracing::warn!(
                    "{}: the VM is emulated by QEMU, as \"auto\" in the configuration file allows",
                    chain(reason)
                );
            },
        )
    }

    fn choose_of(
        self,
        kvm: impl FnOnce() -> Result<(), KvmError>,
        qemu: impl FnOnce() -> Result<(), QemuError>,
        warn: impl FnOnce(&KvmError),
    ) -> Result<Hypervisor, HypervisorError> {
        match self {
            Self::Kvm => kvm()
                .map(|()| Hypervisor::Kvm)
                .map_err(HypervisorError::Kvm),
            Self::Qemu => qemu()
                .map(|()| Hypervisor::Qemu)
                .map_err(HypervisorError::Qemu),
            Self::Auto => match (kvm(), qemu) {
                (Ok(()), _) => Ok(Hypervisor::Kvm),
                (Err(error), qemu) => match qemu() {
                    Ok(()) => {
                        warn(&error);
                        Ok(Hypervisor::Qemu)
                    }
                    Err(qemu) => Err(HypervisorError::Neither { kvm: error, qemu }),
                },
            },
        }
    }
}

/// Says how to make KVM usable.
pub(crate) fn kvm_remedy(error: &KvmError) -> &'static str {
    match error {
        KvmError::Missing(_) => {
            "turn on virtualization in the firmware, or nested virtualization if this is a VM, \
             and load the module kvm-intel or kvm-amd"
        }
        KvmError::Permission(_) => "run nacre as root, or as a member of /dev/kvm's group",
        _ => "use a host whose processor offers VT-x or AMD-V",
    }
}

/// Says how to make QEMU usable.
pub(crate) fn qemu_remedy(error: &QemuError) -> &'static str {
    match error {
        QemuError::TooOld { .. } => {
            "install a newer one (Debian 12 has 7.2 in its package qemu-system-x86), or say where \
             one is with vm.qemu in the configuration file"
        }
        _ => {
            "install Debian's package qemu-system-x86, or say where qemu-system-x86_64 is with \
             vm.qemu in the configuration file"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn no_kvm() -> Result<(), KvmError> {
        Err(KvmError::Missing(io::ErrorKind::NotFound.into()))
    }

    fn no_qemu() -> Result<(), QemuError> {
        Qemu::at("/nonexistent/qemu").find()
    }

    #[test]
    fn the_nearest_choice_wins() {
        use Hypervisor::{Kvm, Qemu};
        for (flag, annotation, config, expected) in [
            (None, None, None, Preference::Kvm),
            (None, None, Some(Preference::Auto), Preference::Auto),
            (None, Some(Qemu), Some(Preference::Qemu), Preference::Qemu),
            (None, Some(Kvm), Some(Preference::Qemu), Preference::Kvm),
            (Some(Qemu), None, Some(Preference::Kvm), Preference::Qemu),
            (
                Some(Kvm),
                Some(Qemu),
                Some(Preference::Qemu),
                Preference::Kvm,
            ),
        ] {
            let choice = HypervisorChoice {
                flag,
                annotation,
                config,
                annotation_may_lower: false,
            };
            assert_eq!(choice.preference().unwrap(), expected, "{choice:?}");
        }
    }

    #[test]
    fn an_annotation_asks_for_emulation_only_where_it_may() {
        for config in [None, Some(Preference::Kvm), Some(Preference::Auto)] {
            let choice = HypervisorChoice {
                annotation: Some(Hypervisor::Qemu),
                config,
                ..HypervisorChoice::default()
            };
            let refused = choice.preference();
            assert!(matches!(refused, Err(HypervisorError::Annotation)));
            let allowed = HypervisorChoice {
                annotation_may_lower: true,
                ..choice
            };
            assert_eq!(allowed.preference().unwrap(), Preference::Qemu);
        }
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused() {
        let silent = |_: &KvmError| panic!("a warning");
        let kvm = Preference::Kvm.choose_of(no_kvm, || panic!("QEMU was asked"), silent);
        let message = kvm.unwrap_err().to_string();
        assert!(message.starts_with("there is no /dev/kvm"), "{message}");
        assert!(message.ends_with("--hypervisor=qemu"), "{message}");
        let qemu = Preference::Qemu.choose_of(|| panic!("KVM was asked"), no_qemu, silent);
        let message = qemu.unwrap_err().to_string();
        assert!(message.contains("/nonexistent/qemu"), "{message}");
        assert!(message.contains("package qemu-system-x86"), "{message}");
    }

    #[test]
    fn auto_warns_before_it_emulates() {
        let silent = |_: &KvmError| panic!("a warning");
        let chosen = Preference::Auto.choose_of(|| Ok(()), || panic!("QEMU was asked"), silent);
        assert_eq!(chosen.unwrap(), Hypervisor::Kvm);
        let mut warned = false;
        let chosen = Preference::Auto.choose_of(no_kvm, || Ok(()), |_| warned = true);
        assert_eq!((chosen.unwrap(), warned), (Hypervisor::Qemu, true));
        let chosen = Preference::Auto.choose_of(no_kvm, no_qemu, silent);
        assert!(matches!(chosen, Err(HypervisorError::Neither { .. })));
    }
}
