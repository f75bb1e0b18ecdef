//! `linux.seccomp`: what a filtered workload can't do.

use std::io::{IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use libseccomp::{ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags};
use nacre_agent::container::ExecOptions;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use oci_spec::runtime::State;
use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, null_stdio, text};
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
    a_listener_answers,
    a_listener_hears_of_further_processes,
    a_listener_that_is_not_there_is_told_of,
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

/// Waits for something to read.
fn wait_for(fd: impl AsFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap(), 1);
}

/// What a listener is sent: the process's state, and the filter's descriptor.
fn receive(listener: &UnixListener) -> (Value, OwnedFd) {
    wait_for(listener);
    let (mut stream, _) = listener.accept().unwrap();
    wait_for(&stream);
    let mut text = vec![0; 1 << 16];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
    let fds: Vec<RawFd> = message
        .cmsgs()
        .unwrap()
        .flat_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds,
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(fds.len(), 1);
    let length = message.bytes;
    // SAFETY: it was just received.
    let filter = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // One state a connection.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    (serde_json::from_slice(&text[..length]).unwrap(), filter)
}

/// Refuses the system call that a filter asks about with an error.
fn refuse(filter: &OwnedFd, errno: i32) {
    wait_for(filter);
    let request = ScmpNotifReq::receive(filter.as_raw_fd()).unwrap();
    let flags = ScmpNotifRespFlags::empty();
    let answer = ScmpNotifResp::new_error(request.id, -errno, flags);
    answer.respond(filter.as_raw_fd()).unwrap();
}

fn asking(bundle: &mut Bundle) -> UnixListener {
    let path = bundle.beside("listener");
    bundle.config["linux"]["seccomp"] = allow_but(json!([
        {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"},
    ]));
    bundle.config["linux"]["seccomp"]["listenerPath"] = json!(text(&path));
    bundle.config["linux"]["seccomp"]["listenerMetadata"] = json!("of mine");
    bundle.config["linux"]["seccomp"]["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    UnixListener::bind(path).unwrap()
}

fn a_listener_answers() -> Result<(), Skipped> {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("mkdir /a; true");
        bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.config["annotations"] = json!({"a": "b"});
        let listener = asking(&mut bundle);
        let mut running = bundle.created();
        let (about, filter) = receive(&listener);
        let pid = running.container().pid().as_raw();
        assert_eq!(about["fds"], json!(["seccompFd"]));
        assert_eq!(about["pid"], pid);
        assert_eq!(about["metadata"], "of mine");
        assert_eq!(about["ociVersion"], bundle.config["ociVersion"]);
        let state = &about["state"];
        assert_eq!(state["status"], "creating");
        assert_eq!(
            (&state["pid"], &state["annotations"]["a"]),
            (&json!(pid), &json!("b"))
        );
        assert_eq!(state["bundle"], text(bundle.write()));
        running.container().start().unwrap();
        refuse(&filter, libc::ENOSPC);
        let outcome = running.wait();
        assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
    }
    Ok(())
}

fn a_listener_hears_of_further_processes() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("sleep 20");
    let listener = asking(&mut bundle);
    let mut running = bundle.created();
    drop(receive(&listener));
    running.container().start().unwrap();
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["mkdir", "/a"]);
    let container = running.container();
    let start = |options: ExecOptions<'_>| exec::start(&bundle, container, &process, options);
    let error = start(ExecOptions::new(null_stdio())).unwrap_err();
    assert!(
        error.to_string().contains("linux.seccomp.listenerPath: "),
        "{error}"
    );
    let mut options = ExecOptions::new(null_stdio());
    options.state = Some(State::default());
    let executed = start(options).unwrap();
    let (about, filter) = receive(&listener);
    assert_eq!(about["pid"], executed.pid.as_raw());
    refuse(&filter, libc::ENOSPC);
    assert_eq!(exec::wait(&executed), 1);
    assert!(!bundle.at("a").exists());
    Ok(())
}

fn a_listener_that_is_not_there_is_told_of() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    drop(asking(&mut bundle));
    let (message, _) = bundle.error();
    let expected = format!(
        "linux.seccomp.listenerPath {}: can't connect to it: Connection refused",
        bundle.beside("listener").display()
    );
    assert!(message.starts_with(&expected), "{message}");
    Ok(())
}
