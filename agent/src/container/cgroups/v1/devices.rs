//! Access to devices, on version 1
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v1/devices.html)).
//!
//! The kernel keeps a default, for all devices, and exceptions from it. An exception can be taken
//! back only as it was made: next to one for all minors of a major, no rule for one of them can say
//! otherwise. So the exceptions are computed here, where that is detected.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::devices::{ALL, Access, DeviceKind, MKNOD, READ, Rule, WRITE};

/// The devices of an exception; `None` for any.
type Pattern = (DeviceKind, Option<u32>, Option<u32>);

/// The default and exceptions to write.
#[derive(Debug, PartialEq, Eq)]
struct List {
    allowed_by_default: bool,
    /// The kinds of access that differ from the default, by device.
    exceptions: BTreeMap<Pattern, u8>,
}

impl List {
    fn from_access(access: &Access) -> Result<Self, CgroupError> {
        let mut list = List {
            allowed_by_default: false,
            exceptions: BTreeMap::new(),
        };
        for rule in &access.rules {
            list.add(rule)?;
        }
        Ok(list)
    }

    fn add(&mut self, rule: &Rule) -> Result<(), CgroupError> {
        if let Rule {
            kind: None,
            major: None,
            minor: None,
            access: ALL,
            ..
        } = *rule
        {
            self.allowed_by_default = rule.allow;
            self.exceptions.clear();
            return Ok(());
        }
        for kind in [DeviceKind::Block, DeviceKind::Character] {
            if rule.kind.is_some_and(|wanted| wanted != kind) {
                continue;
            }
            let pattern = (kind, rule.major, rule.minor);
            if rule.allow == self.allowed_by_default {
                self.remove(pattern, rule.access)?;
            } else {
                *self.exceptions.entry(pattern).or_default() |= rule.access;
            }
        }
        Ok(())
    }

    /// Takes exceptions back.
    fn remove(&mut self, pattern: Pattern, access: u8) -> Result<(), CgroupError> {
        for (exception, excepted) in &mut self.exceptions {
            if *excepted & access == 0 || !overlap(*exception, pattern) {
                continue;
            }
            if !covers(pattern, *exception) {
                return Err(CgroupError::unsupported(
                    "devices",
                    "a rule takes back a part of what a rule before it says of more devices, \
                     which cgroup v1 can't do",
                ));
            }
            *excepted &= !access;
        }
        self.exceptions.retain(|_, excepted| *excepted != 0);
        Ok(())
    }
}

fn overlap(a: Pattern, b: Pattern) -> bool {
    let same = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    a.0 == b.0 && same(a.1, b.1) && same(a.2, b.2)
}

/// Whether `a` matches everything that `b` matches.
fn covers(a: Pattern, b: Pattern) -> bool {
    let all = |a: Option<u32>, b: Option<u32>| a.is_none() || a == b;
    a.0 == b.0 && all(a.1, b.1) && all(a.2, b.2)
}

/// Enforces `access` for the cgroup: each write is one rule.
pub(in crate::container::cgroups) fn write(
    directory: &Path,
    access: &Access,
) -> Result<(), CgroupError> {
    let list = List::from_access(access)?;
    let open = |name: &str| {
        let file = directory.join(name);
        let opened = OpenOptions::new().write(true).open(&file);
        opened.map_err(CgroupError::directory("open", &file))
    };
    let (all, exceptions) = if list.allowed_by_default {
        ("devices.allow", "devices.deny")
    } else {
        ("devices.deny", "devices.allow")
    };
    tell(&open(all)?, "a")?;
    if list.exceptions.is_empty() {
        return Ok(());
    }
    let file = open(exceptions)?;
    for (pattern, access) in &list.exceptions {
        tell(&file, &line(*pattern, *access))?;
    }
    Ok(())
}

fn tell(mut file: &File, line: &str) -> Result<(), CgroupError> {
    file.write_all(line.as_bytes())
        .map_err(|source| CgroupError::DeviceRule {
            rule: line.to_owned(),
            source,
        })
}

/// Returns a rule as the kernel takes it: `c 1:3 rwm`.
fn line((kind, major, minor): Pattern, access: u8) -> String {
    let kind = match kind {
        DeviceKind::Block => 'b',
        DeviceKind::Character => 'c',
    };
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
    let mut line = format!("{kind} {}:{} ", number(major), number(minor));
    for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
        if access & bit != 0 {
            line.push(letter);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::devices::testing::{Random, allowed};

    fn list(json: &str) -> Result<(bool, Vec<String>), String> {
        let rules: Vec<oci_spec::runtime::LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        let list = List::from_access(&Access::by(&rules).unwrap()).map_err(|e| e.to_string())?;
        let lines = list.exceptions.iter().map(|(p, access)| line(*p, *access));
        Ok((list.allowed_by_default, lines.collect()))
    }

    const DEFAULT: [&str; 10] = [
        "b *:* m",
        "c *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
        "c 136:* rwm",
    ];

    #[test]
    fn without_rules_only_the_default_devices_can_be_used() {
        for json in ["[]", r#"[{"allow": false, "access": "rwm"}]"#] {
            let (allowed, lines) = list(json).unwrap();
            assert!(!allowed);
            assert_eq!(lines, DEFAULT);
        }
    }

    #[test]
    fn rules_become_exceptions() {
        // An earlier rule that a later one takes back entirely leaves nothing.
        let (allowed, lines) = list(
            r#"[{"allow": true, "type": "b", "major": 8, "minor": 1, "access": "rw"},
                {"allow": true, "type": "b", "major": 8, "minor": 2, "access": "rw"},
                {"allow": false, "type": "b", "major": 8, "access": "w"},
                {"allow": false, "type": "b", "major": 8, "minor": 2, "access": "r"},
                {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "r"},
                {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "w"}]"#,
        )
        .unwrap();
        assert!(!allowed);
        let others: Vec<_> = lines.iter().filter(|l| !DEFAULT.contains(&&***l)).collect();
        assert_eq!(others, ["b 8:1 r", "c 10:200 rw"]);
    }

    #[test]
    fn a_rule_for_all_devices_turns_the_default_over() {
        let (allowed, lines) = list(
            r#"[{"allow": true, "type": "b", "major": 8, "minor": 1}, {"allow": true},
                {"allow": false, "type": "b", "major": 8, "access": "w"}]"#,
        )
        .unwrap();
        assert!(allowed);
        assert_eq!(lines, ["b 8:* w"]);
        // All devices, but not all access.
        let (allowed, lines) = list(r#"[{"allow": true}, {"allow": false, "access": "w"}]"#)
            .map_err(|e| assert!(e.contains("devices"), "{e}"))
            .unwrap_or_default();
        assert!(!allowed && lines.is_empty());
    }

    #[test]
    fn what_v1_can_t_say_is_refused_by_name() {
        let error = list(
            r#"[{"allow": true, "type": "b", "major": 8, "access": "rw"},
                {"allow": false, "type": "b", "major": 8, "minor": 3, "access": "w"}]"#,
        )
        .unwrap_err();
        assert!(error.starts_with("linux.resources.devices "), "{error}");
    }

    /// Checks every access, by the kernel's way of going through the list and by the definition.
    #[test]
    fn the_list_does_what_the_rules_mean() {
        let mut random = Random::new();
        let mut compared = 0;
        for _ in 0..5000 {
            let rules = random.rules([None, Some(0), Some(7)]);
            let access = Access { rules };
            let Ok(list) = List::from_access(&access) else {
                continue;
            };
            compared += 1;
            for kind in [DeviceKind::Block, DeviceKind::Character] {
                for (major, minor) in [(0, 0), (0, 7), (7, 0), (7, 7), (9, 9)] {
                    let device = (kind, Some(major), Some(minor));
                    for bit in [MKNOD, READ, WRITE] {
                        let excepted = list
                            .exceptions
                            .iter()
                            .any(|(p, access)| covers(*p, device) && access & bit != 0);
                        assert_eq!(
                            excepted != list.allowed_by_default,
                            allowed(&access.rules, kind, major, minor, bit),
                            "{device:?} {bit} {access:?}"
                        );
                    }
                }
            }
        }
        assert!(compared > 500, "{compared}");
    }
}
