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
    a_listener_answers,
    a_listener_hears_of_further_processes,
    a_listener_that_is_not_there_is_told_of,
];

fn allow_but(syscalls: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls})
}

/// Waits for something to read.
fn wait_for(fd: impl AsFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap(), 1);
}

/// Receives what a listener is sent: the process's state, and the filter's descriptor.
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
    // Each connection carries one state.
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
