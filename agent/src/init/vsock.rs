//! Connects to the host.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

/// The host's context id (vsock(7)).
const HOST: u32 = libc::VMADDR_CID_HOST;

/// From linux/vm_sockets.h; with the C library's `timeval`.
const SO_VM_SOCKETS_CONNECT_TIMEOUT: libc::c_int = 6;

/// How long the host may take to accept a connection, in seconds. The kernel's default of two isn't
/// enough on a host that is short of CPU.
const CONNECT_BOUND: libc::time_t = 30;

/// Connects to a port of the host.
pub(super) fn connect_to_host(port: u32) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let bound = libc::timeval {
        tv_sec: CONNECT_BOUND,
        tv_usec: 0,
    };
    // SAFETY: the option takes a timeval, which `bound` is.
    Errno::result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::AF_VSOCK,
            SO_VM_SOCKETS_CONNECT_TIMEOUT,
            (&raw const bound).cast(),
            size_of_val(&bound) as libc::socklen_t,
        )
    })?;
    connect(socket.as_raw_fd(), &VsockAddr::new(HOST, port))?;
    Ok(socket)
}
