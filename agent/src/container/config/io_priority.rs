//! Parses `process.ioPriority`.

use oci_spec::runtime::{IOPriorityClass, LinuxIOPriority};

use super::error::ConfigError;

const CLASS_SHIFT: u32 = 13;

/// Returns the value that the kernel takes.
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

/// Parses it to the value that the kernel takes. The priority must be one of the kernel's eight.
pub(crate) fn parse(priority: &LinuxIOPriority) -> Result<i32, ConfigError> {
    value(priority).ok_or_else(|| {
        let problem = format!("{} isn't between 0 and 7", priority.priority());
        ConfigError::invalid("process.ioPriority.priority", problem)
    })
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
            assert_eq!(parse(&priority).is_ok(), expected.is_some(), "{json}");
        }
    }
}
