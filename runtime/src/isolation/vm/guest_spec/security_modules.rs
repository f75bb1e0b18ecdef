//! `process.apparmorProfile` and `process.selinuxLabel`, which a guest's kernel doesn't have.
//!
//! Container engines give every container a profile whose purpose is to protect the host's kernel
//! from it. In a VM the container doesn't reach that kernel, so those profiles are left out. A
//! profile that somebody wrote for a workload may forbid it things within its own files, so it
//! mustn't be left out.

use oci_spec::runtime::Process;

/// The profiles of Docker, Podman, containerd, CRI-O and nerdctl, and the absence of one.
const OF_ENGINES: [&str; 5] = [
    "unconfined",
    "docker-default",
    "cri-containerd.apparmor.d",
    "crio-default",
    "nerdctl-default",
];

/// Podman's, which its version follows.
const OF_PODMAN: &str = "containers-default-";

/// A security module that a guest doesn't have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityModuleError {
    #[error(
        "process.apparmorProfile: {0:?} can't be applied in a VM, whose kernel has no AppArmor; \
         leave it out, or give \"unconfined\""
    )]
    AppArmor(String),
    #[error(
        "{field}: {label:?} can't be applied in a VM, whose kernel has no SELinux; leave it out \
         (--security-opt label=disable)"
    )]
    SeLinux { field: &'static str, label: String },
}

/// Removes from a process what need not be applied in a guest, and refuses what can't be.
pub(in crate::isolation::vm) fn leave_out(
    process: &mut Process,
) -> Result<(), SecurityModuleError> {
    if let Some(profile) = process.apparmor_profile()
        && !profile.is_empty()
    {
        if !OF_ENGINES.contains(&profile.as_str()) && !profile.starts_with(OF_PODMAN) {
            return Err(SecurityModuleError::AppArmor(profile.clone()));
        }
        process.set_apparmor_profile(None);
    }
    refuse_label("process.selinuxLabel", process.selinux_label())
}

/// Refuses an SELinux label.
pub(in crate::isolation::vm) fn refuse_label(
    field: &'static str,
    label: &Option<String>,
) -> Result<(), SecurityModuleError> {
    match label {
        Some(label) if !label.is_empty() => Err(SecurityModuleError::SeLinux {
            field,
            label: label.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_profiles_of_engines_are_left_out_and_others_refused() {
        let process = |name: &str, value: &str| -> Process {
            let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", name: value});
            serde_json::from_value(process).unwrap()
        };
        for profile in [
            "",
            "unconfined",
            "docker-default",
            "containers-default-0.50.1",
        ] {
            let mut process = process("apparmorProfile", profile);
            leave_out(&mut process).unwrap();
            let left = process.apparmor_profile().as_deref();
            assert!(matches!(left, None | Some("")), "{left:?}");
        }
        let refused = leave_out(&mut process("apparmorProfile", "my-profile"));
        let message = refused.unwrap_err().to_string();
        assert!(message.starts_with("process.apparmorProfile: \"my-profile\" "));
        let refused = leave_out(&mut process("selinuxLabel", "system_u:system_r:x_t:s0"));
        let message = refused.unwrap_err().to_string();
        assert!(message.starts_with("process.selinuxLabel: \"system_u:"));
        leave_out(&mut process("selinuxLabel", "")).unwrap();
    }
}
