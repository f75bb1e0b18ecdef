//! `linux.resources.devices`: which devices the container may make, read and write.
//!
//! cgroup v2 has no files for this. A BPF program attached to the cgroup is asked at each
//! access ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v2.html#device-controller)),
//! and here it is written from the rules.
//!
//! As on v1, and with runc, everything is denied that no rule allows, and the last rule for a
//! device and a kind of access decides.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::CgroupError;
use super::bpf::{Instruction, Register};

/// Bits of a kind of access, `BPF_DEVCG_ACC_*`.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// More rules than this are refused: the program must stay within what the kernel verifies.
const MAX_RULES: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `BPF_DEVCG_DEV_BLOCK`.
    Block = 1,
    /// `BPF_DEVCG_DEV_CHAR`.
    Character = 2,
}

/// One rule; `None` matches any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<Kind>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// What runc lets every container do, whatever its rules: make any node, and use the devices
/// that are in every container's `/dev`.
const DEFAULT: [Rule; 10] = [
    allow(Kind::Character, None, None, MKNOD),
    allow(Kind::Block, None, None, MKNOD),
    allow(Kind::Character, Some(1), Some(3), ALL), // null
    allow(Kind::Character, Some(1), Some(5), ALL), // zero
    allow(Kind::Character, Some(1), Some(7), ALL), // full
    allow(Kind::Character, Some(1), Some(8), ALL), // random
    allow(Kind::Character, Some(1), Some(9), ALL), // urandom
    allow(Kind::Character, Some(5), Some(0), ALL), // tty
    allow(Kind::Character, Some(5), Some(2), ALL), // ptmx
    allow(Kind::Character, Some(136), None, ALL),  // pts/*
];

/// The program that decides as `rules` and then the default ones say.
pub(super) fn program(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>, CgroupError> {
    if rules.len() > MAX_RULES {
        let given = format!("a list of {} rules", rules.len());
        return Err(CgroupError::invalid("devices", given, "one of at most 256"));
    }
    let mut checked = Vec::with_capacity(rules.len() + DEFAULT.len());
    for (index, rule) in rules.iter().enumerate() {
        checked.push(parse(index, rule)?);
    }
    checked.extend(DEFAULT);
    Ok(compile(&checked))
}

fn parse(index: usize, rule: &LinuxDeviceCgroup) -> Result<Rule, CgroupError> {
    let field = |name: &str| format!("devices[{index}].{name}");
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Kind::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Kind::Character),
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
    // At most three different letters, and only those.
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

/// The program goes through the rules from the last to the first. It keeps the kinds of
/// access that are asked for and not yet allowed; a rule that matches the device clears those
/// that it allows, and access is granted when none is left. A rule that denies one of them
/// ends it, and so does the end of the rules.
///
/// Its argument is a `struct bpf_cgroup_dev_ctx`: `u32 access_type` (access in the upper
/// half, kind in the lower), `u32 major`, `u32 minor`. It returns 1 to allow, 0 to deny.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    use Register::{Context, Kind, Left, Major, Minor, Result};

    let grant = [Instruction::set(Result, 1), Instruction::exit()];
    let deny = [Instruction::set(Result, 0), Instruction::exit()];
    let mut program = vec![
        Instruction::load(Kind, Context, 0),
        Instruction::copy(Left, Kind),
        Instruction::and(Kind, 0xffff),
        Instruction::shift_right(Left, 16),
        Instruction::load(Major, Context, 4),
        Instruction::load(Minor, Context, 8),
    ];
    for rule in rules.iter().rev() {
        let mut verdict = Vec::with_capacity(4);
        if rule.allow {
            verdict.push(Instruction::and(Left, i32::from(!rule.access & ALL)));
            verdict.push(Instruction::skip_unless_equal(Left, 0, grant.len()));
            verdict.extend(grant);
        } else {
            verdict.push(Instruction::skip_if_any(Left, i32::from(rule.access), 1));
            verdict.push(Instruction::skip(deny.len()));
            verdict.extend(deny);
        }
        let matches: Vec<(Register, u32)> = [
            (Kind, rule.kind.map(|kind| kind as u32)),
            (Major, rule.major),
            (Minor, rule.minor),
        ]
        .into_iter()
        .filter_map(|(register, value)| Some((register, value?)))
        .collect();
        for (index, (register, value)) in matches.iter().enumerate() {
            let rest = matches.len() - index - 1 + verdict.len();
            // The same 32 bits, as the instruction's signed operand.
            let value = value.cast_signed();
            program.push(Instruction::skip_unless_equal(*register, value, rest));
        }
        program.append(&mut verdict);
    }
    program.extend(deny);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::bpf::interpret;

    fn decide(program: &[Instruction], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let access_type = (u32::from(access) << 16) | kind as u32;
        interpret(program, [access_type, major, minor]) == 1
    }

    fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn without_rules_only_the_default_devices_can_be_used() {
        let program = program(&[]).unwrap();
        let character =
            |major, minor, access| decide(&program, Kind::Character, major, minor, access);
        assert!(character(1, 3, READ | WRITE));
        assert!(character(136, 7, READ | WRITE));
        assert!(character(5, 2, ALL));
        assert!(character(10, 229, MKNOD));
        assert!(!character(10, 229, READ));
        assert!(!character(1, 1, READ)); // mem
        assert!(!character(5, 1, WRITE)); // console
        assert!(decide(&program, Kind::Block, 8, 0, MKNOD));
        assert!(!decide(&program, Kind::Block, 8, 0, READ));
        assert!(!decide(&program, Kind::Block, 1, 3, READ));
    }

    #[test]
    fn the_last_rule_for_a_kind_of_access_decides() {
        // As Docker gives it, and then a disk that is for reading only.
        let rules = rules(
            r#"[{"allow": false, "access": "rwm"},
                {"allow": true, "type": "b", "major": 8, "minor": -1, "access": "rw"},
                {"allow": false, "type": "b", "major": 8, "minor": 3, "access": "w"},
                {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "r"},
                {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "w"}]"#,
        );
        let program = program(&rules).unwrap();
        assert!(decide(&program, Kind::Block, 8, 1, READ | WRITE));
        assert!(decide(&program, Kind::Block, 8, 3, READ));
        assert!(!decide(&program, Kind::Block, 8, 3, WRITE));
        assert!(!decide(&program, Kind::Block, 8, 3, READ | WRITE));
        assert!(!decide(&program, Kind::Block, 9, 1, READ));
        // Allowed by two rules together.
        assert!(decide(&program, Kind::Character, 10, 200, READ | WRITE));
        assert!(!decide(&program, Kind::Character, 10, 201, READ));
    }

    #[test]
    fn a_rule_for_all_devices_opens_everything() {
        let program = program(&rules(r#"[{"allow": true, "type": "a"}]"#)).unwrap();
        assert!(decide(&program, Kind::Block, 8, 0, ALL));
        assert!(decide(&program, Kind::Character, u32::MAX, u32::MAX, ALL));
    }

    /// Every access, decided by the program and by the definition.
    #[test]
    fn the_program_does_what_the_rules_mean() {
        let kinds = [None, Some(Kind::Block), Some(Kind::Character)];
        let numbers = [None, Some(0), Some(u32::MAX)];
        let mut seed = 1u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for _ in 0..500 {
            let rules: Vec<Rule> = (0..random(6))
                .map(|_| Rule {
                    allow: random(2) == 0,
                    kind: kinds[random(3)],
                    major: numbers[random(3)],
                    minor: numbers[random(3)],
                    access: 1 + random(7) as u8,
                })
                .collect();
            let program = compile(&rules);
            for kind in [Kind::Block, Kind::Character] {
                for (major, minor) in [(0, 0), (0, u32::MAX), (u32::MAX, 0), (7, 7)] {
                    for access in 1..=ALL {
                        let allowed = |bit: u8| {
                            rules
                                .iter()
                                .rfind(|rule| {
                                    rule.kind.is_none_or(|k| k == kind)
                                        && rule.major.is_none_or(|m| m == major)
                                        && rule.minor.is_none_or(|m| m == minor)
                                        && rule.access & bit != 0
                                })
                                .is_some_and(|rule| rule.allow)
                        };
                        let expected = [MKNOD, READ, WRITE]
                            .into_iter()
                            .all(|bit| access & bit == 0 || allowed(bit));
                        let got = decide(&program, kind, major, minor, access);
                        assert_eq!(got, expected, "{kind:?} {major}:{minor} {access} {rules:?}");
                    }
                }
            }
        }
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
            let error = program(&rules(json)).unwrap_err().to_string();
            assert!(error.contains(field), "{json}: {error}");
        }
        let many = |count| {
            rules(&format!(
                "[{}]",
                vec![r#"{"allow": true}"#; count].join(",")
            ))
        };
        program(&many(MAX_RULES)).unwrap();
        program(&many(MAX_RULES + 1)).unwrap_err();
    }
}
