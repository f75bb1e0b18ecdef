//! `process.ioPriority`
//! ([ioprio_set(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html)).

use nix::errno::Errno;
use oci_spec::runtime::{IOPriorityClass, LinuxIOPriority};

use super::config::ConfigError;

/// As in `linux/ioprio.h`.
const WHO_PROCESS: i32 = 1;
const CLASS_SHIFT: u32 = 13;

/// What the kernel takes for it.
fn value(priority: &LinuxIOPriority) -> Option<i32> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match priority.priority() {
        level @ 0..=7 => Some((class << CLASS_SHIFT) | level as i32),
        _ => None,
    }
}

/// Checks that the priority is one of the kernel's eight.
pub(super) fn validate(priority: &LinuxIOPriority) -> Result<(), ConfigError> {
    value(priority).map(drop).ok_or_else(|| {
        let problem = format!("{} isn't between 0 and 7", priority.priority());
        ConfigError::invalid("process.ioPriority.priority", problem)
    })
}

/// Sets it for this process.
pub(super) fn set(priority: &LinuxIOPriority) -> nix::Result<()> {
    let value = value(priority).ok_or(Errno::EINVAL)?;
    // SAFETY: ioprio_set takes integers alone.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_levels_are_the_kernels() {
        for (json, expected) in [
            (
                r#"{"class": "IOPRIO_CLASS_RT", "priority": 0}"#,
                Some(0x2000),
            ),
            (
                r#"{"class": "IOPRIO_CLASS_BE", "priority": 7}"#,
                Some(0x4007),
            ),
            (r#"{"class": "IOPRIO_CLASS_IDLE"}"#, Some(0x6000)),
            (r#"{"class": "IOPRIO_CLASS_BE", "priority": 8}"#, None),
            (r#"{"class": "IOPRIO_CLASS_BE", "priority": -1}"#, None),
        ] {
            let priority: LinuxIOPriority = serde_json::from_str(json).unwrap();
            assert_eq!(value(&priority), expected, "{json}");
            assert_eq!(validate(&priority).is_ok(), expected.is_some(), "{json}");
        }
    }
}
