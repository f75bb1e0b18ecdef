//! What runs a VM, and the choice of it: the host's KVM, or QEMU, which emulates the processor
//! where KVM can't be used. That is slow, and another wall between guest and host
//! (docs/threat-model.md), so it is never chosen in silence.

use std::path::Path;

use clap::ValueEnum;
use nacre_vmm::{KvmError, Qemu, QemuError, kvm};
use serde::{Deserialize, Serialize};

use crate::{config::annotations::HYPERVISOR, log::chain};

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

/// Why the hypervisor that was asked for can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HypervisorError {
    #[error("{}; {}, or run the container emulated, with --hypervisor=qemu", chain(.0), kvm_remedy(.0))]
    Kvm(KvmError),
    #[error("{}; {}", chain(.0), qemu_remedy(.0))]
    Qemu(QemuError),
    #[error(
        "annotations.{HYPERVISOR}: \"qemu\" is another wall than \"kvm\", which the configuration \
         file asks for; --hypervisor=qemu gives it"
    )]
    Annotation,
    #[error("{}; {}. Nor is there another: {}; {}", chain(.kvm), kvm_remedy(.kvm), chain(.qemu), qemu_remedy(.qemu))]
    Neither { kvm: KvmError, qemu: QemuError },
}

impl Hypervisor {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Kvm, Self::Qemu];

    /// Those that this host can run a VM with; `qemu` is where QEMU is.
    pub(crate) fn usable(qemu: &Path) -> Vec<Self> {
        let can = |it: &Self| match it {
            Self::Kvm => kvm::check().is_ok(),
            Self::Qemu => Qemu::at(qemu).check().is_ok(),
        };
        Self::ALL.into_iter().filter(can).collect()
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }

    /// The hypervisor of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// What is asked for: by the flag, else by the annotation, else by the configuration file;
    /// else KVM.
    ///
    /// # Errors
    ///
    /// [`HypervisorError::Annotation`]: some callers pass on the annotations of an image.
    pub(crate) fn asked(
        flag: Option<Self>,
        annotation: Option<Self>,
        config: Option<Preference>,
    ) -> Result<Preference, HypervisorError> {
        match (flag, annotation, config) {
            (None, Some(Self::Qemu), Some(Preference::Kvm)) => Err(HypervisorError::Annotation),
            _ => Ok(Self::preferred(flag.or(annotation), config)),
        }
    }

    /// The same without an annotation.
    pub(crate) fn preferred(flag: Option<Self>, config: Option<Preference>) -> Preference {
        match flag {
            Some(Self::Kvm) => Preference::Kvm,
            Some(Self::Qemu) => Preference::Qemu,
            None => config.unwrap_or(Preference::Kvm),
        }
    }
}

impl Preference {
    /// The hypervisor that is used, which can be; `qemu` is where QEMU is.
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

/// What makes KVM usable.
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

/// What makes QEMU usable.
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
            (None, Some(Qemu), Some(Preference::Auto), Preference::Qemu),
            (
                Some(Kvm),
                Some(Qemu),
                Some(Preference::Qemu),
                Preference::Kvm,
            ),
        ] {
            let asked = Hypervisor::asked(flag, annotation, config);
            assert_eq!(asked.unwrap(), expected);
        }
        let refused = Hypervisor::asked(None, Some(Qemu), Some(Preference::Kvm));
        assert!(matches!(refused, Err(HypervisorError::Annotation)));
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
