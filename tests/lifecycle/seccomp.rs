//! `linux.seccomp`: what a filtered workload can't do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nacre_tests::nacre::is_reference;
use nacre_tests::{Bundle, Case, elf};
use serde_json::{Value, json};

nacre_tests::tests![
    a_refused_call_gets_its_error,
    a_forbidden_call_kills,
    arguments_are_looked_at,
    a_filter_may_forbid_what_the_runtime_needs_itself,
    no_privileges_are_left_over_without_no_new_privileges,
    a_further_process_is_filtered_too,
    // A guest's kernel runs no such programs.
    a_32_bit_program_needs_its_architecture: Process,
    a_call_that_nobody_knows_is_skipped,
];

fn with_filter(bundle: Bundle, filter: Value) -> Bundle {
    bundle.set("/linux/seccomp", filter)
}

fn allow_but(syscalls: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls })
}

/// Makes a program of some instructions the workload.
fn program(case: &Case, code: &[u8]) -> Bundle {
    let bundle = case.busybox().args(["/program"]);
    let program = bundle.rootfs().join("program");
    fs::write(&program, elf::executable(code)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    bundle
}

fn a_refused_call_gets_its_error(case: &Case) {
    let filter = allow_but(json!([
        { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
        { "names": ["mknod", "mknodat"], "action": "SCMP_ACT_ERRNO" },
    ]));
    let script = "grep Seccomp: /proc/self/status; mkdir /a; mkfifo /f; ls -d /a /f 2>/dev/null";
    let outcome = case.run(&with_filter(case.busybox(), filter).shell(script));
    assert_eq!(outcome.text(), "Seccomp:\t2\n");
    for words in [
        "'/a': No space left on device",
        "/f: Operation not permitted",
    ] {
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
}

fn a_forbidden_call_kills(case: &Case) {
    let killed = 128 + libc::SIGSYS;
    for (action, status) in [
        ("KILL", killed),
        ("KILL_PROCESS", killed),
        ("KILL_THREAD", killed),
        ("TRAP", killed),
        // Nobody traces it, so that fails; logging lets the call through.
        ("TRACE", 1),
        ("LOG", 0),
    ] {
        let action = format!("SCMP_ACT_{action}");
        let filter = allow_but(json!([{ "names": ["mkdir"], "action": action }]));
        let bundle = with_filter(case.busybox(), filter).shell("exec mkdir /a");
        let outcome = case.run(&bundle);
        assert_eq!(outcome.status(), Some(status), "{action}: {outcome:?}");
    }
}

fn arguments_are_looked_at(case: &Case) {
    let filter = allow_but(json!([
        { "names": ["kill"], "action": "SCMP_ACT_ERRNO",
          "args": [{ "index": 1, "value": libc::SIGCONT, "op": "SCMP_CMP_EQ" }] },
    ]));
    let script = "kill -0 $$ && echo 0; kill -CONT $$ 2>/dev/null || echo not CONT";
    let bundle = with_filter(case.busybox(), filter).shell(script);
    assert_eq!(case.run(&bundle).ok(), "0\nnot CONT\n");
}

fn a_filter_may_forbid_what_the_runtime_needs_itself(case: &Case) {
    // exit(7): mov eax, 60; mov edi, 7; syscall.
    let code = [0xb8, 60, 0, 0, 0, 0xbf, 7, 0, 0, 0, 0x0f, 0x05];
    for no_new_privileges in [true, false] {
        let bundle = program(case, &code).set("/process/noNewPrivileges", no_new_privileges);
        // An error at the very end is still reported.
        let filter = allow_but(json!([{ "names": ["execve"], "action": "SCMP_ACT_ERRNO" }]));
        let outcome = case.run(&with_filter(bundle.clone(), filter));
        let status = outcome.status();
        assert!(is_reference() || status == Some(126), "{outcome:?}");
        let words = "operation not permitted";
        assert!(outcome.stderr.contains(words), "{outcome:?}");
        // Only what the program needs, and what starts it, is allowed.
        let filter = json!({
            "defaultAction": "SCMP_ACT_KILL_PROCESS",
            "syscalls": [{ "names": ["execve", "exit"], "action": "SCMP_ACT_ALLOW" }],
        });
        case.run(&with_filter(bundle, filter)).expect(7);
    }
}

fn no_privileges_are_left_over_without_no_new_privileges(case: &Case) {
    for uid in [0, 1000] {
        let bundle = case
            .busybox()
            .set("/process/user", json!({ "uid": uid, "gid": uid }))
            .set("/process/noNewPrivileges", false)
            .shell("grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status");
        let without = case.run(&bundle).ok();
        let filtered = with_filter(bundle, allow_but(json!([])));
        assert_eq!(case.run(&filtered).ok(), without);
    }
}

fn a_further_process_is_filtered_too(case: &Case) {
    let filter = allow_but(json!([
        { "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
    ]));
    let bundle = with_filter(case.busybox(), filter)
        .set("/process/noNewPrivileges", false)
        .args(["sleep", "1000"]);
    case.detach(&bundle);
    for flags in [&["--no-new-privs"][..], &[]] {
        let words = [&["exec"], flags, &[case.id(), "mkdir", "/a"]].concat();
        let outcome = case.command(&words);
        let words = "No space left on device";
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
    case.remove_container();
}

fn a_32_bit_program_needs_its_architecture(case: &Case) {
    // exit(7), by the 32-bit way into the kernel: mov eax, 1; mov ebx, 7; int 0x80.
    let bundle = program(case, &[0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80]);
    if case.run(&bundle).status() != Some(7) {
        case.ignore("the kernel runs no 32-bit system calls");
    }
    let killed = 128 + libc::SIGSYS;
    let bundle = with_filter(bundle, allow_but(json!([])));
    case.run(&bundle).expect(killed);
    let bundle = bundle.push("/linux/seccomp/architectures", "SCMP_ARCH_X86");
    case.run(&bundle).expect(7);
    let trap = json!([{ "names": ["exit"], "action": "SCMP_ACT_TRAP" }]);
    case.run(&bundle.set("/linux/seccomp/syscalls", trap))
        .expect(killed);
}

fn a_call_that_nobody_knows_is_skipped(case: &Case) {
    let filter = allow_but(json!([
        { "names": ["call_of_2050"], "action": "SCMP_ACT_KILL" },
    ]));
    let bundle = with_filter(case.busybox(), filter).shell("echo fine");
    assert_eq!(case.run(&bundle).ok(), "fine\n");
}
