use std::os::fd::AsFd;
use std::time::Instant;

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use serde_json::{Value, json};

use super::super::program::tests::run;
use super::*;
use crate::container::kernel::seccomp::has;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

fn profile(json: &Value) -> LinuxSeccomp {
    serde_json::from_value(json.clone()).unwrap()
}

fn compile(seccomp: &LinuxSeccomp) -> Filter {
    Profile::parse(seccomp).unwrap().compile().unwrap()
}

fn error(json: &Value) -> String {
    let seccomp = profile(json);
    let error = Profile::parse(&seccomp).and_then(|profile| profile.compile().map(drop));
    error.unwrap_err().to_string()
}

/// Returns the program that libseccomp makes of a profile.
fn libseccomps(seccomp: &LinuxSeccomp) -> Vec<sock_filter> {
    let action = |action, errno: Option<u32>| {
        let errno = errno.unwrap_or(1);
        match action {
            LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
            LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno as i32),
            LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(errno as u16),
            LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
            LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
            LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
            LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
            _ => ScmpAction::KillThread,
        }
    };
    let default = action(seccomp.default_action(), seccomp.default_errno_ret());
    let mut context = ScmpFilterContext::new(default).unwrap();
    for arch in seccomp.architectures().iter().flatten() {
        let arch = match arch {
            Arch::ScmpArchX86 => ScmpArch::X86,
            Arch::ScmpArchX32 => ScmpArch::X32,
            _ => ScmpArch::X8664,
        };
        context.add_arch(arch).unwrap();
    }
    for syscall in seccomp.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret());
        let arguments: Vec<ScmpArgCompare> = syscall
            .args()
            .iter()
            .flatten()
            .map(|a| {
                let (op, value) = match a.op() {
                    LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, a.value()),
                    LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, a.value()),
                    LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, a.value()),
                    LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, a.value()),
                    LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, a.value()),
                    LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, a.value()),
                    LinuxSeccompOperator::ScmpCmpMaskedEq => (
                        ScmpCompareOp::MaskedEqual(a.value()),
                        a.value_two().unwrap(),
                    ),
                };
                ScmpArgCompare::new(a.index() as u32, op, value)
            })
            .collect();
        for name in syscall.names() {
            if let Ok(number) = ScmpSyscall::from_name(name)
                && action != default
            {
                context
                    .add_rule_conditional(action, number, &arguments)
                    .unwrap();
            }
        }
    }
    let file = tempfile::tempfile().unwrap();
    context.export_bpf(file.as_fd()).unwrap();
    let mut bytes = Vec::new();
    let mut file = file;
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    let instruction = |b: &[u8]| sock_filter {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(8).map(instruction).collect()
}

/// Runs both programs for every number, with arguments that the rules of `seccomp` compare with.
fn assert_as_libseccomp(seccomp: &LinuxSeccomp) {
    let ours = compile(seccomp).program;
    let theirs = libseccomps(seccomp);
    let mut values = vec![0, 1, u64::MAX];
    for argument in seccomp.syscalls().iter().flatten() {
        for argument in argument.args().iter().flatten() {
            for value in [argument.value(), argument.value_two().unwrap_or(0)] {
                values.extend([value.wrapping_sub(1), value, value + 1, value | 1 << 40]);
            }
        }
    }
    values.sort();
    values.dedup();
    let check = |arch, number, arguments: [u64; 6]| {
        let answers = [&ours, &theirs].map(|p| run(p, arch, number, arguments));
        // The answer for newer system calls is ours, and runc's.
        let newer = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert!(
            answers[0] == answers[1] || answers[0] == newer,
            "{arch:#x} {number:#x} {arguments:x?}: {answers:x?}"
        );
    };
    for arch in [X86_64, I386, 0xc000_00b7] {
        for number in (0..1100).flat_map(|n| [n, super::super::arch::X32_BIT + n, u32::MAX - n]) {
            check(arch, number, [0; 6]);
        }
    }
    let conditional = seccomp.syscalls().iter().flatten();
    for syscall in conditional.filter(|s| s.args().iter().flatten().count() > 0) {
        for (abi, arch) in [(Abi::X86_64, X86_64), (Abi::X32, X86_64), (Abi::I386, I386)] {
            // The kernel sees only 32 bits of a 32-bit program's arguments.
            let width = if arch == X86_64 {
                u64::MAX
            } else {
                u64::from(u32::MAX)
            };
            for call in syscall.names().iter().flat_map(|name| abi.calls(name)) {
                let (Call::Number(number) | Call::Shared { number, .. }) = call;
                for (value, other) in values
                    .iter()
                    .flat_map(|a| values.iter().map(move |b| (a, b)))
                {
                    for position in 0..6 {
                        let mut arguments = [other & width; 6];
                        arguments[position] = value & width;
                        check(arch, number, arguments);
                    }
                }
            }
        }
    }
}

#[test]
fn it_answers_as_libseccomp_does() {
    let all = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    let syscalls = json!([
        {"names": ["read", "write", "exit", "mmap2", "no_such"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 0xffff_ffff_u32, "op": "SCMP_CMP_EQ"}]},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": [
            {"index": 0, "value": 16, "op": "SCMP_CMP_EQ"},
            {"index": 2, "value": 9, "op": "SCMP_CMP_EQ"}]},
        {"names": ["ioctl"], "action": "SCMP_ACT_KILL_PROCESS",
         "args": [{"index": 1, "value": 0x5412, "op": "SCMP_CMP_GT"}]},
        {"names": ["prctl"], "action": "SCMP_ACT_TRAP",
         "args": [{"index": 0, "value": 0x1_0000_0005_u64, "op": "SCMP_CMP_LT"}]},
        {"names": ["madvise"], "action": "SCMP_ACT_LOG",
         "args": [{"index": 5, "value": 0x1_0000_0005_u64, "op": "SCMP_CMP_GE"},
                  {"index": 4, "value": 7, "op": "SCMP_CMP_LE"}]},
        {"names": ["kill"], "action": "SCMP_ACT_KILL",
         "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_NE"}]},
        {"names": ["kill"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        {"names": ["shmctl", "semop", "accept", "connect"], "action": "SCMP_ACT_ALLOW"},
    ]);
    for default in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ALLOW"] {
        for archs in [&all[..], &all[..1], &all[..2], &[]] {
            assert_as_libseccomp(&profile(&json!({
                "defaultAction": default, "architectures": archs, "syscalls": syscalls,
            })));
        }
    }
}

/// Returns Podman's default profile, as Podman gives it to a runtime; `None` where it isn't
/// installed.
fn podmans() -> Option<LinuxSeccomp> {
    let text = std::fs::read("/usr/share/containers/seccomp.json").ok()?;
    let mut profile: Value = serde_json::from_slice(&text).unwrap();
    let syscalls = profile["syscalls"].as_array_mut().unwrap();
    syscalls.retain(|s| {
        let (includes, excludes) = (&s["includes"], &s["excludes"]);
        let arches = includes["arches"].as_array();
        arches.is_none_or(|a| a.contains(&json!("amd64")))
            && includes["caps"].is_null()
            && (excludes["caps"].is_null() || s["args"].as_array().is_some_and(|a| !a.is_empty()))
    });
    profile["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    Some(serde_json::from_value(profile).unwrap())
}

#[test]
#[ignore = "needs Podman's profile"]
fn podmans_profile_is_as_libseccomp_has_it_and_quicker_made() {
    let Some(seccomp) = podmans() else {
        panic!("skipped: there is no /usr/share/containers/seccomp.json");
    };
    assert_as_libseccomp(&seccomp);
    let once = |make: &dyn Fn()| {
        let begin = Instant::now();
        make();
        begin.elapsed()
    };
    // The shortest of a few, on a busy machine.
    let time = |make: &dyn Fn()| (0..5).map(|_| once(make)).min().unwrap();
    let ours = time(&|| drop(compile(&seccomp)));
    let theirs = time(&|| drop(libseccomps(&seccomp)));
    println!("{ours:?}, libseccomp {theirs:?}");
    assert!(ours < theirs, "{ours:?}, libseccomp {theirs:?}");
}

#[test]
fn newer_system_calls_are_said_not_to_be_there() {
    let answer = |default: Value| {
        let mut json = json!({"syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_LOG"}]});
        json.as_object_mut()
            .unwrap()
            .extend(default.as_object().unwrap().clone());
        let program = compile(&profile(&json)).program;
        // getpid is 39.
        [38, 39, 40].map(|number| run(&program, X86_64, number, [0; 6]))
    };
    let enosys = SECCOMP_RET_ERRNO | 38;
    let (eperm, log) = (SECCOMP_RET_ERRNO | 1, SECCOMP_RET_LOG);
    assert_eq!(
        answer(json!({"defaultAction": "SCMP_ACT_ERRNO"})),
        [eperm, log, enosys]
    );
    assert_eq!(
        answer(json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"})),
        [SECCOMP_RET_KILL_PROCESS, log, enosys]
    );
    let allow = SECCOMP_RET_ALLOW;
    assert_eq!(
        answer(json!({"defaultAction": "SCMP_ACT_ALLOW"})),
        [allow, log, allow]
    );
}

#[test]
fn an_argument_spoken_of_twice_makes_each_condition_enough() {
    let filter = compile(&profile(&json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"},
        ]}],
    })));
    let program = filter.program;
    let answers = [0, 8, 9].map(|a| run(&program, X86_64, 135, [a; 6]));
    let refused = SECCOMP_RET_ERRNO | 1;
    assert_eq!(answers, [SECCOMP_RET_ALLOW, SECCOMP_RET_ALLOW, refused]);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let names: Vec<String> = (0..5000).map(|n| format!("x{n}")).collect();
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    for (json, expected) in [
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY can't be the default",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}),
            "linux.seccomp.defaultErrnoRet: 4096 isn't an error number",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1}),
            "linux.seccomp.defaultErrnoRet: the action takes no error number",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_KILL", "errnoRet": 1})),
            "linux.seccomp.syscalls[0].errnoRet: the action takes no error number",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_KILL",
                        "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]})),
            "linux.seccomp.syscalls[0].args[0].index: 6 isn't between 0 and 5",
        ),
        (
            rule(json!({"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY can't be for sendmsg",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.listenerPath is missing",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "x"}),
            "linux.seccomp.listenerPath: \"x\" isn't absolute",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "linux.seccomp.listenerMetadata: there is no linux.seccomp.listenerPath",
        ),
        (
            rule(json!({"names": names, "action": "SCMP_ACT_KILL"})),
            "linux.seccomp.syscalls: there are over 4096 rules",
        ),
    ] {
        let found = error(&json);
        assert!(found.starts_with(expected), "{found}");
    }
    let values = 0..4000;
    let many: Vec<Value> = values
        .map(|v| json!({"index": 0, "value": v, "op": "SCMP_CMP_EQ"}))
        .collect();
    let found = error(&rule(
        json!({"names": ["read"], "action": "SCMP_ACT_KILL", "args": many}),
    ));
    assert!(found.contains("instructions, over"), "{found}");
}

#[test]
fn flags_are_the_kernels() {
    for flag in FLAGS {
        assert!(has(*flag), "{flag}");
    }
    let flags = |json: Value| compile(&profile(&json)).flags;
    let all = json!(FLAGS);
    let with = |action: &str| {
        flags(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": all, "listenerPath": "/listener",
                     "syscalls": [{"names": ["read"], "action": action}]}),
        )
    };
    assert_eq!(with("SCMP_ACT_KILL"), 0b000110);
    assert_eq!(with("SCMP_ACT_NOTIFY"), 0b101110);
    assert_eq!(flags(json!({"defaultAction": "SCMP_ACT_ALLOW"})), 0);
}
