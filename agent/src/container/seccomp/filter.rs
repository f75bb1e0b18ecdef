//! Loads a filter.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::container::config::seccomp::{AllowedCall, Filter, let_through};
use crate::container::error::{Step, StepError};
use crate::container::fork::passage::Passage;
use crate::container::kernel::seccomp::seccomp;

impl Filter {
    /// Returns the filter with a way through it for whoever has the passage's key.
    pub(crate) fn with_way_for(self, passage: &Passage) -> Self {
        let calls: Vec<AllowedCall> = passage.calls().collect();
        self.with(|program| let_through(&calls, passage.key(), program))
    }

    /// Loads the filter for this thread, and all that it makes and executes from now on. The thread
    /// must have no_new_privs set, or CAP_SYS_ADMIN in its user namespace.
    ///
    /// If the filter [`notifies`](Self::notifies), returns the listener's descriptor.
    ///
    /// # Errors
    ///
    /// As [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html) says.
    pub(crate) fn load(&self) -> Result<Option<OwnedFd>, StepError> {
        let program = libc::sock_fprog {
            len: self.program.len() as libc::c_ushort,
            filter: self.program.as_ptr().cast_mut(),
        };
        match seccomp(self.flags, &raw const program) {
            -1 => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EACCES) => Err(error)
                    .step(|| "set linux.seccomp without process.noNewPrivileges or CAP_SYS_ADMIN"),
                error => Err(error).step(|| "set linux.seccomp"),
            },
            // SAFETY: with that flag the call has just made this descriptor.
            fd if self.notifies() => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
            _ => Ok(None),
        }
    }
}
