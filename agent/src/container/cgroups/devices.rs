//! `linux.resources.devices`: which devices the container may make, read and write.
//!
//! Everything is denied unless a rule allows it, and the last rule for a device and a kind of
//! access decides, as with runc.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::CgroupError;

/// Bits for the kinds of access, `BPF_DEVCG_ACC_*`.
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

/// More rules than this are refused: the program that enforces them on version 2 must stay within
/// what the kernel's verifier accepts.
const MAX_RULES: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DeviceKind {
    /// `BPF_DEVCG_DEV_BLOCK`.
    Block = 1,
    /// `BPF_DEVCG_DEV_CHAR`.
    Character = 2,
}

/// A rule; `None` matches anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Option<DeviceKind>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

const fn allow(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// What runc allows every container, whatever its rules: to make any node, and to use the devices
/// that are in every container's `/dev`.
const DEFAULT: [Rule; 10] = [
    allow(DeviceKind::Character, None, None, MKNOD),
    allow(DeviceKind::Block, None, None, MKNOD),
    allow(DeviceKind::Character, Some(1), Some(3), ALL), // null
    allow(DeviceKind::Character, Some(1), Some(5), ALL), // zero
    allow(DeviceKind::Character, Some(1), Some(7), ALL), // full
    allow(DeviceKind::Character, Some(1), Some(8), ALL), // random
    allow(DeviceKind::Character, Some(1), Some(9), ALL), // urandom
    allow(DeviceKind::Character, Some(5), Some(0), ALL), // tty
    allow(DeviceKind::Character, Some(5), Some(2), ALL), // ptmx
    allow(DeviceKind::Character, Some(136), None, ALL),  // pts/*
];

/// A container's access: its own rules first, then the default ones.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) rules: Vec<Rule>,
}

impl Access {
    /// Returns the access that `resources` gives.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Invalid`], naming the rule.
    pub(super) fn parse(resources: &LinuxResources) -> Result<Self, CgroupError> {
        Self::by(resources.devices().as_deref().unwrap_or_default())
    }

    pub(super) fn by(rules: &[LinuxDeviceCgroup]) -> Result<Self, CgroupError> {
        if rules.len() > MAX_RULES {
            let given = format!("a list of {} rules", rules.len());
            return Err(CgroupError::invalid("devices", given, "one of at most 256"));
        }
        let mut checked = Vec::with_capacity(rules.len() + DEFAULT.len());
        for (index, rule) in rules.iter().enumerate() {
            checked.push(parse(index, rule)?);
        }
        checked.extend(DEFAULT);
        Ok(Access { rules: checked })
    }
}

fn parse(index: usize, rule: &LinuxDeviceCgroup) -> Result<Rule, CgroupError> {
    let field = |name: &str| format!("devices[{index}].{name}");
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(DeviceKind::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(DeviceKind::Character),
        Some(LinuxDeviceType::P) => {
            let expected = "a, b or c";
            return Err(CgroupError::invalid(field("type"), "p", expected));
        }
    };
    let number = |name: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| CgroupError::invalid(field(name), value, "a device's number, or -1")),
    };
    let mut access = 0;
    let letters = rule.access().as_deref().unwrap_or("rwm");
    for letter in letters.chars() {
        access |= match letter {
            'm' => MKNOD,
            'r' => READ,
            'w' => WRITE,
            _ => 0,
        };
    }
    // At most three letters, and only these.
    if access == 0 || letters.len() > 3 || letters.chars().any(|c| !"rwm".contains(c)) {
        let given = format!("{letters:?}");
        return Err(CgroupError::invalid(
            field("access"),
            given,
            "made of r, w and m",
        ));
    }
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major: number("major", rule.major())?,
        minor: number("minor", rule.minor())?,
        access,
    })
}

/// Returns `major:minor`.
pub(super) fn device_number(field: &str, major: i64, minor: i64) -> Result<String, CgroupError> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => Err(CgroupError::invalid(
            field,
            format!("{major}:{minor}"),
            "a device's number",
        )),
    }
}

/// Random rules and what they mean, for the tests of both versions to compare with.
#[cfg(test)]
pub(super) mod testing {
    use super::{DeviceKind, Rule};

    /// Pseudorandom numbers that are the same in each run.
    pub(in super::super) struct Random(u64);

    impl Random {
        pub(in super::super) fn new() -> Self {
            Self(1)
        }

        fn below(&mut self, limit: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) as usize % limit
        }

        /// Returns fewer than six rules, with these as major and minor numbers.
        pub(in super::super) fn rules(&mut self, numbers: [Option<u32>; 3]) -> Vec<Rule> {
            let kinds = [None, Some(DeviceKind::Block), Some(DeviceKind::Character)];
            (0..self.below(6))
                .map(|_| Rule {
                    allow: self.below(2) == 0,
                    kind: kinds[self.below(3)],
                    major: numbers[self.below(3)],
                    minor: numbers[self.below(3)],
                    access: 1 + self.below(7) as u8,
                })
                .collect()
        }
    }

    /// Whether rules allow one kind of access, by the definition: the last rule that matches
    /// decides.
    pub(in super::super) fn allowed(
        rules: &[Rule],
        kind: DeviceKind,
        major: u32,
        minor: u32,
        bit: u8,
    ) -> bool {
        let matches = |rule: &&Rule| {
            rule.kind.is_none_or(|k| k == kind)
                && rule.major.is_none_or(|m| m == major)
                && rule.minor.is_none_or(|m| m == minor)
                && rule.access & bit != 0
        };
        rules.iter().rfind(matches).is_some_and(|rule| rule.allow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_no_rule_is_refused_by_name() {
        for (json, field) in [
            (r#"[{"allow": true, "type": "p"}]"#, "devices[0].type"),
            (r#"[{"allow": true, "major": -2}]"#, "devices[0].major"),
            (
                r#"[{"allow": true, "minor": 4294967296}]"#,
                "devices[0].minor",
            ),
            (r#"[{"allow": true, "access": ""}]"#, "devices[0].access"),
            (r#"[{"allow": true, "access": "rx"}]"#, "devices[0].access"),
            (
                r#"[{"allow": true, "access": "rwmr"}]"#,
                "devices[0].access",
            ),
        ] {
            let error = Access::by(&rules(json)).unwrap_err().to_string();
            assert!(error.contains(field), "{json}: {error}");
        }
        let many = |count| {
            rules(&format!(
                "[{}]",
                vec![r#"{"allow": true}"#; count].join(",")
            ))
        };
        Access::by(&many(MAX_RULES)).unwrap();
        Access::by(&many(MAX_RULES + 1)).unwrap_err();
    }
}
