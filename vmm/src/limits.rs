//! What a process may have of the host's resources (setrlimit(2)).

use std::io;

use crate::call::check;

/// Lowers a limit of this process to `most`. One that is lower already stays.
pub(crate) fn lower(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit is valid for the calls.
    unsafe {
        check(libc::getrlimit(resource, &mut limit).into())?;
        limit.rlim_max = limit.rlim_max.min(most);
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(resource, &limit).into())
    }
}
