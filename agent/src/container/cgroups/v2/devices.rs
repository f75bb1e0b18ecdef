//! Access to devices, on version 2.
//!
//! cgroup v2 has no files for this. A BPF program attached to the cgroup is asked at each access
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v2.html#device-controller)). It is
//! compiled here from the rules.

use std::fs::File;
use std::path::Path;

use super::bpf::{self, Instruction, Register};
use crate::container::cgroups::CgroupError;
use crate::container::cgroups::devices::{ALL, Access, Rule};
use crate::container::kernel::user_namespaces::is_ordinary_user;

/// Enforces `access` for the cgroup, until that is removed. An ordinary user can't do that, and
/// need not: such a user's containers have what they were given and can't make device nodes.
pub(in crate::container::cgroups) fn attach(
    directory: &Path,
    access: &Access,
) -> Result<(), CgroupError> {
    let cgroup = File::open(directory).map_err(CgroupError::directory("open", directory))?;
    match bpf::attach(&compile(&access.rules), &cgroup) {
        // Their containers can't make device nodes.
        Err(CgroupError::Devices { source, .. })
            if source.raw_os_error() == Some(libc::EPERM) && is_ordinary_user() =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Enforces `access` from now on, in place of the previous one.
pub(in crate::container::cgroups) fn replace(
    directory: &Path,
    access: &Access,
) -> Result<(), CgroupError> {
    let cgroup = File::open(directory).map_err(CgroupError::directory("open", directory))?;
    bpf::replace(&compile(&access.rules), &cgroup)
}

/// Compiles the rules. The program goes through them from the last to the first. It keeps the kinds
/// of access that are asked for and not yet allowed; a rule that matches the device clears those
/// that it allows, and access is granted when none is left. A rule that denies one of them denies
/// the access, and so does the end of the rules.
///
/// Its argument is a `struct bpf_cgroup_dev_ctx`: `u32 access_type` (access in the upper half, kind
/// in the lower), `u32 major`, `u32 minor`. It returns 1 to allow, 0 to deny.
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
    use crate::container::cgroups::devices::testing::{Random, allowed};
    use crate::container::cgroups::devices::{ALL, DeviceKind, MKNOD, READ, WRITE};
    use crate::container::cgroups::v2::bpf::interpret;
    use oci_spec::runtime::LinuxDeviceCgroup;

    fn decide(
        program: &[Instruction],
        kind: DeviceKind,
        major: u32,
        minor: u32,
        access: u8,
    ) -> bool {
        let access_type = (u32::from(access) << 16) | kind as u32;
        interpret(program, [access_type, major, minor]) == 1
    }

    fn program(json: &str) -> Vec<Instruction> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        compile(&Access::by(&rules).unwrap().rules)
    }

    #[test]
    fn without_rules_only_the_default_devices_can_be_used() {
        let program = program("[]");
        let character =
            |major, minor, access| decide(&program, DeviceKind::Character, major, minor, access);
        assert!(character(1, 3, READ | WRITE));
        assert!(character(136, 7, READ | WRITE));
        assert!(character(5, 2, ALL));
        assert!(character(10, 229, MKNOD));
        assert!(!character(10, 229, READ));
        assert!(!character(1, 1, READ)); // mem
        assert!(!character(5, 1, WRITE)); // console
        assert!(decide(&program, DeviceKind::Block, 8, 0, MKNOD));
        assert!(!decide(&program, DeviceKind::Block, 8, 0, READ));
        assert!(!decide(&program, DeviceKind::Block, 1, 3, READ));
    }

    #[test]
    fn the_last_rule_for_a_kind_of_access_decides() {
        // As Docker gives it, and then a disk that is read-only.
        let rules = r#"[{"allow": false, "access": "rwm"},
                {"allow": true, "type": "b", "major": 8, "minor": -1, "access": "rw"},
                {"allow": false, "type": "b", "major": 8, "minor": 3, "access": "w"},
                {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "r"},
                {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "w"}]"#;
        let program = program(rules);
        assert!(decide(&program, DeviceKind::Block, 8, 1, READ | WRITE));
        assert!(decide(&program, DeviceKind::Block, 8, 3, READ));
        assert!(!decide(&program, DeviceKind::Block, 8, 3, WRITE));
        assert!(!decide(&program, DeviceKind::Block, 8, 3, READ | WRITE));
        assert!(!decide(&program, DeviceKind::Block, 9, 1, READ));
        // Allowed by two rules together.
        assert!(decide(
            &program,
            DeviceKind::Character,
            10,
            200,
            READ | WRITE
        ));
        assert!(!decide(&program, DeviceKind::Character, 10, 201, READ));
    }

    #[test]
    fn a_rule_for_all_devices_opens_everything() {
        let program = program(r#"[{"allow": true, "type": "a"}]"#);
        assert!(decide(&program, DeviceKind::Block, 8, 0, ALL));
        assert!(decide(
            &program,
            DeviceKind::Character,
            u32::MAX,
            u32::MAX,
            ALL
        ));
    }

    /// Checks every access, decided by the program and by the definition.
    #[test]
    fn the_program_does_what_the_rules_mean() {
        let mut random = Random::new();
        for _ in 0..500 {
            let rules = random.rules([None, Some(0), Some(u32::MAX)]);
            let program = compile(&rules);
            for kind in [DeviceKind::Block, DeviceKind::Character] {
                for (major, minor) in [(0, 0), (0, u32::MAX), (u32::MAX, 0), (7, 7)] {
                    for access in 1..=ALL {
                        let expected = [MKNOD, READ, WRITE].into_iter().all(|bit| {
                            access & bit == 0 || allowed(&rules, kind, major, minor, bit)
                        });
                        let got = decide(&program, kind, major, minor, access);
                        assert_eq!(got, expected, "{kind:?} {major}:{minor} {access} {rules:?}");
                    }
                }
            }
        }
    }
}
