//! What comes of a system call.

use std::io;

/// Returns the error of a call that returned a negative number.
pub(crate) fn check(result: libc::c_long) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
