//! Checks whether the host's KVM can run a stock kernel.

use std::io;

use kvm_ioctls::{Cap, Kvm};

use super::probe;
use crate::arch;
use crate::kvm_error::KvmError;

/// The capabilities that a machine needs from KVM.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

const API_VERSION: i32 = 12;

/// Opens `/dev/kvm`, if it can run a stock kernel.
///
/// If the processor shows its virtualisation, that is taken for granted. If it doesn't, KVM
/// interprets the guest's kernel, and a guest of a dozen instructions shows whether it can: that
/// takes some milliseconds, and well under a second if it hangs.
///
/// # Errors
///
/// [`KvmError`].
pub fn check() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| classify(error.into()))?;
    let unusable = |reason: String| Err(KvmError::Unusable { reason });
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return unusable(format!("its API has version {version}, not {API_VERSION}"));
    }
    if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return unusable(format!("it lacks {name}"));
    }
    if !probe::has_hardware_virtualisation()
        && let Err(reason) = probe::run(&kvm)
    {
        return unusable(reason);
    }
    Ok(kvm)
}

/// Checks that guests can run virtual machines of their own.
///
/// # Errors
///
/// [`KvmError::NotNested`].
pub fn check_nested(kvm: &Kvm) -> Result<(), KvmError> {
    let reason = match arch::can_nest(kvm) {
        Ok(true) => return Ok(()),
        Ok(false) => nested_parameter().unwrap_or_else(|| "it offers none".into()),
        Err(error) => format!("asking for CPUID: {error}"),
    };
    Err(KvmError::NotNested { reason })
}

/// Returns a reason if the parameter of the module that decides about this is off.
fn nested_parameter() -> Option<String> {
    ["kvm_intel", "kvm_amd"].into_iter().find_map(|module| {
        let path = format!("/sys/module/{module}/parameters/nested");
        let value = std::fs::read_to_string(path).ok()?;
        let value = value.trim();
        matches!(value, "0" | "N")
            .then(|| format!("the parameter nested of the module {module} is {value}"))
    })
}

fn classify(error: io::Error) -> KvmError {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => KvmError::Permission(error),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KvmError::Missing(error),
        _ => KvmError::Unusable {
            reason: format!("it can't be opened: {error}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let of = |errno| classify(io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::ENOENT), KvmError::Missing(_)));
        assert!(matches!(of(libc::ENODEV), KvmError::Missing(_)));
        assert!(matches!(of(libc::EACCES), KvmError::Permission(_)));
        assert!(matches!(of(libc::EBUSY), KvmError::Unusable { .. }));
    }

    /// Whatever the host is, the answer comes quickly, and asking again gives the same.
    #[test]
    fn the_answer_comes_fast() {
        let began = Instant::now();
        let first = check().map(drop).map_err(|error| error.to_string());
        assert!(began.elapsed() < Duration::from_secs(1));
        let second = check().map(drop).map_err(|error| error.to_string());
        assert_eq!(first, second);
        println!("{first:?} after {:?}", began.elapsed());
    }
}
