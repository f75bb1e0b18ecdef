//! Virtual machines inside a container's: nested virtualization. It exposes one more part of the
//! host's kernel to a guest, and a large one, so only those get it who ask for it.

use nacre_vmm::{KvmError, kvm};

use crate::log::chain;

use super::{hypervisor::Hypervisor, keys::NESTED};

/// Why a container can't have virtual machines of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NestedError {
    #[error(
        "annotations.{NESTED}: \"true\" is more than the configuration file allows, which says \
         nested = false"
    )]
    Forbidden,
    #[error("nested virtualization was asked for: {}; {}", chain(.0), remedy(.0))]
    Kvm(KvmError),
}

/// Whether the container can make virtual machines: as the annotation says, else the configuration
/// file; else it can't.
///
/// # Errors
///
/// [`NestedError::Forbidden`]: some callers pass on the annotations of an image, so an annotation
/// never gets more than the file allows.
pub(crate) fn asked(annotation: Option<bool>, config: Option<bool>) -> Result<bool, NestedError> {
    match (annotation, config) {
        (Some(true), Some(false)) => Err(NestedError::Forbidden),
        _ => Ok(annotation.or(config).unwrap_or(false)),
    }
}

/// Checks that the hypervisor, which can run a VM, offers nested virtualization. QEMU emulates it.
///
/// # Errors
///
/// [`NestedError::Kvm`].
pub(crate) fn check(hypervisor: Hypervisor) -> Result<(), NestedError> {
    match hypervisor {
        Hypervisor::Qemu => Ok(()),
        Hypervisor::Kvm => kvm::check()
            .and_then(|kvm| kvm::check_nested(&kvm))
            .map_err(NestedError::Kvm),
    }
}

/// Says how to make KVM offer it.
pub(crate) fn remedy(error: &KvmError) -> &'static str {
    match error {
        KvmError::NotNested { .. } => {
            "load the module kvm_intel or kvm_amd with nested=1, or do without"
        }
        _ => super::hypervisor::kvm_remedy(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_gets_it_unless_the_file_rules_it_out() {
        for (annotation, config, expected) in [
            (None, None, false),
            (Some(true), None, true),
            (Some(false), None, false),
            (None, Some(true), true),
            (None, Some(false), false),
            (Some(true), Some(true), true),
            (Some(false), Some(true), false),
            (Some(false), Some(false), false),
        ] {
            assert_eq!(asked(annotation, config).unwrap(), expected);
        }
        let refused = asked(Some(true), Some(false)).unwrap_err().to_string();
        assert!(refused.contains("dev.nacre.vm.nested"), "{refused}");
    }

    #[test]
    fn what_the_host_lacks_is_said() {
        let reason = "the parameter nested of the module kvm_amd is 0".into();
        let error = NestedError::Kvm(KvmError::NotNested { reason }).to_string();
        assert!(error.contains("kvm_amd is 0; load the module"), "{error}");
        assert!(check(Hypervisor::Qemu).is_ok());
    }
}
