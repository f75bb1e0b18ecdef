//! The session keyring
//! ([session-keyring(7)](https://man7.org/linux/man-pages/man7/session-keyring.7.html)).

use std::ffi::CString;

use nix::errno::Errno;

use crate::container::error::{Step, StepError};

/// The permissions of a session keyring: the kernel's defaults (everything for its possessor; view,
/// read and link for its user), and search, without which no later process of the container could
/// join it ([keyctl_setperm(3)](https://man7.org/linux/man-pages/man3/keyctl_setperm.3.html)).
const PERMISSIONS: u32 = 0x3f13_0000 | 0x0008_0000;

/// Puts this process into the container's session keyring, and makes that if there is none yet. A
/// kernel without keyrings has nothing of the caller's that could be seen.
pub(crate) fn join(id: &str) -> Result<(), StepError> {
    let name = format!("_ses.{id}");
    let step = || format!("join the session keyring {name}");
    let c_name = CString::new(name.as_str()).step(step)?;
    // SAFETY: the name is a C string.
    let joined = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            c_name.as_ptr(),
        )
    };
    let keyring = match Errno::result(joined) {
        Err(Errno::ENOSYS) => return Ok(()),
        other => other.step(step)?,
    };
    // SAFETY: the call takes only integers.
    let set =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, keyring, PERMISSIONS) };
    match Errno::result(set) {
        // It belongs to another user, who has joined it already.
        Ok(_) | Err(Errno::EACCES) => Ok(()),
        Err(error) => Err(error).step(|| format!("let the session keyring {name} be searched")),
    }
}
