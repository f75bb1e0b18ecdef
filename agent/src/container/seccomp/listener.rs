//! The listener that answers system calls with a filter's `SCMP_ACT_NOTIFY`: a process at the other
//! end of `linux.seccomp.listenerPath`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use oci_spec::runtime::{ContainerProcessState, LinuxSeccomp, SECCOMP_FD_NAME, State};

use crate::container::kernel::sockets::send_fd;

/// How long the listener may take to accept the connection, and to receive the message, in seconds.
const BOUND: i64 = 10;

/// Why the listener can't be told of a process.
#[derive(Debug, thiserror::Error)]
#[error("linux.seccomp.listenerPath {}: can't {step}", path.display())]
pub struct ListenerError {
    path: PathBuf,
    step: &'static str,
    source: io::Error,
}

/// Sends a filter's descriptor to the profile's listener, with what it is for: the process `pid` of
/// the container that `state` describes.
///
/// # Errors
///
/// If the listener isn't there, or doesn't take it within 10 s.
pub(crate) fn tell(
    seccomp: &LinuxSeccomp,
    filter: &OwnedFd,
    pid: i32,
    state: State,
) -> Result<(), ListenerError> {
    let path = seccomp.listener_path().as_deref().unwrap_or(Path::new(""));
    let failed = |step| {
        move |source| ListenerError {
            path: path.to_owned(),
            step,
            source,
        }
    };
    let listener = reach(path).map_err(failed("connect to it"))?;
    let mut about = ContainerProcessState::default();
    about
        .set_version(state.version().clone())
        .set_fds(vec![SECCOMP_FD_NAME.to_owned()])
        .set_pid(pid)
        .set_metadata(seccomp.listener_metadata().clone())
        .set_state(state);
    let message = serde_json::to_vec(&about);
    let message = message.map_err(|e| failed("describe the process to it")(e.into()))?;
    send_fd(
        listener.as_fd(),
        &message,
        filter.as_fd(),
        MsgFlags::empty(),
    )
    .map_err(failed("send the filter to it"))
}

fn reach(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The timeout for sending also covers connecting.
    setsockopt(&listener, sockopt::SendTimeout, &TimeVal::seconds(BOUND))?;
    loop {
        match connect(listener.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            other => return Ok(other.map(|()| listener)?),
        }
    }
}
