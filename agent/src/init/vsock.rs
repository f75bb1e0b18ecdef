//! Connections to the host.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

/// The host's context id (vsock(7)).
const HOST: u32 = libc::VMADDR_CID_HOST;

/// Connects to a port of the host. The kernel gives up after two seconds.
pub(super) fn connect_to_host(port: u32) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(socket.as_raw_fd(), &VsockAddr::new(HOST, port))?;
    Ok(socket)
}
