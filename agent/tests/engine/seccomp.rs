//! `linux.seccomp`: what a filtered workload can't do.

use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::Bundle;
use crate::exec;

tests![
    a_refused_call_gets_its_error,
    a_forbidden_call_kills,
    arguments_are_looked_at,
    a_filter_may_forbid_what_the_engine_needs_itself,
    no_privileges_are_left_over_without_no_new_privileges,
    a_further_process_is_filtered_too,
    a_32_bit_program_needs_its_architecture,
    a_call_that_nobody_knows_is_skipped,
];

fn allow_but(syscalls: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls})
}

fn a_refused_call_gets_its_error() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("grep Seccomp: /proc/self/status; mkdir /a; mkfifo /f; ls /");
    bundle.config["linux"]["seccomp"] = allow_but(json!([
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["mknod", "mknodat"], "action": "SCMP_ACT_ERRNO"},
    ]));
    let outcome = bundle.run();
    assert_eq!(outcome.stdout, "Seccomp:\t2\nbin\ndev\nproc\nsys\n");
    for words in [
        "'/a': No space left on device",
        "/f: Operation not permitted",
    ] {
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
    Ok(())
}

fn a_forbidden_call_kills() -> Result<(), Skipped> {
    for action in ["KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP"] {
        let mut bundle = Bundle::new("exec mkdir /a");
        bundle.config["linux"]["seccomp"] = allow_but(json!([
            {"names": ["mkdir"], "action": format!("SCMP_ACT_{action}")},
        ]));
        assert_eq!(bundle.run().status, 128 + libc::SIGSYS, "{action}");
    }
    // Nobody traces it; and a log is no obstacle.
    for (action, status) in [("TRACE", 1), ("LOG", 0)] {
        let mut bundle = Bundle::new("exec mkdir /a");
        bundle.config["linux"]["seccomp"] = allow_but(json!([
            {"names": ["mkdir"], "action": format!("SCMP_ACT_{action}")},
        ]));
        assert_eq!(bundle.run().status, status, "{action}");
    }
    Ok(())
}

fn arguments_are_looked_at() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("kill -0 $$ && echo 0; kill -CONT $$ || echo not CONT");
    bundle.config["linux"]["seccomp"] = allow_but(json!([
        {"names": ["kill"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 1, "value": libc::SIGCONT, "op": "SCMP_CMP_EQ"}]},
    ]));
    assert_eq!(bundle.output(), "0\nnot CONT\n");
    Ok(())
}

fn a_filter_may_forbid_what_the_engine_needs_itself() -> Result<(), Skipped> {
    // exit(7): mov eax, 60; mov edi, 7; syscall.
    let code = [0xb8, 60, 0, 0, 0, 0xbf, 7, 0, 0, 0, 0x0f, 0x05];
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("true");
        bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        // What goes wrong at the very end is still told.
        bundle.config["linux"]["seccomp"] =
            allow_but(json!([{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}]));
        let mut running = bundle.created();
        let error = running.container().start().unwrap_err().to_string();
        assert!(error.contains("operation not permitted"), "{error}");
        drop(running);
        // Nothing but what the program does and how it gets to be.
        bundle.program("program", &code);
        bundle.config["process"]["args"] = json!(["/program"]);
        bundle.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_KILL_PROCESS",
            "syscalls": [{"names": ["execve", "exit"], "action": "SCMP_ACT_ALLOW"}],
        });
        assert_eq!(bundle.run().status, 7);
    }
    Ok(())
}

fn no_privileges_are_left_over_without_no_new_privileges() -> Result<(), Skipped> {
    for uid in [0, 1000] {
        let mut bundle = Bundle::new("grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status");
        bundle.config["process"]["user"] = json!({"uid": uid, "gid": uid});
        bundle.config["process"]["noNewPrivileges"] = json!(false);
        let without = bundle.output();
        bundle.config["linux"]["seccomp"] = allow_but(json!([]));
        assert_eq!(bundle.output(), without);
    }
    Ok(())
}

fn a_further_process_is_filtered_too() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("sleep 20");
    bundle.config["linux"]["seccomp"] = allow_but(json!([
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
    ]));
    let mut running = bundle.start();
    for no_new_privileges in [true, false] {
        let mut process = bundle.config["process"].clone();
        process["args"] = json!(["mkdir", "/a"]);
        process["noNewPrivileges"] = json!(no_new_privileges);
        let outcome = exec::run(&bundle, &mut running, &process);
        assert!(
            outcome.stderr.contains("No space left on device"),
            "{outcome:?}"
        );
    }
    Ok(())
}

fn a_32_bit_program_needs_its_architecture() -> Result<(), Skipped> {
    // exit(7), by the 32-bit way into the kernel: mov eax, 1; mov ebx, 7; int 0x80.
    let code = [0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80];
    let mut bundle = Bundle::new("");
    bundle.program("program", &code);
    bundle.config["process"]["args"] = json!(["/program"]);
    let unfiltered = bundle.run().status;
    if unfiltered != 7 {
        return Err(Skipped("the kernel runs no 32-bit system calls"));
    }
    bundle.config["linux"]["seccomp"] = allow_but(json!([]));
    assert_eq!(bundle.run().status, 128 + libc::SIGSYS);
    bundle.config["linux"]["seccomp"]["architectures"] = json!(["SCMP_ARCH_X86"]);
    assert_eq!(bundle.run().status, 7);
    bundle.config["linux"]["seccomp"]["syscalls"] =
        json!([{"names": ["exit"], "action": "SCMP_ACT_TRAP"}]);
    assert_eq!(bundle.run().status, 128 + libc::SIGSYS);
    Ok(())
}

fn a_call_that_nobody_knows_is_skipped() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("echo fine");
    bundle.config["linux"]["seccomp"] = allow_but(json!([
        {"names": ["call_of_2050"], "action": "SCMP_ACT_KILL"},
    ]));
    assert_eq!(bundle.output(), "fine\n");
    Ok(())
}
