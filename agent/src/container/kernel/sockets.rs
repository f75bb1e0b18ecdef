//! Sends descriptors over sockets.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Sends `message` and a descriptor over a socket.
pub(crate) fn send_fd(
    socket: BorrowedFd<'_>,
    message: &[u8],
    fd: BorrowedFd<'_>,
    flags: MsgFlags,
) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let parts = [IoSlice::new(message)];
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, flags, None) {
            Err(Errno::EINTR) => {}
            // What a stream socket doesn't take at once would never arrive.
            Ok(sent) if sent < message.len() => return Err(ErrorKind::WriteZero.into()),
            other => return Ok(other.map(drop)?),
        }
    }
}
