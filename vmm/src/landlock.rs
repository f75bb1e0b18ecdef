//! Landlock: takes from a thread what it could reach of the host's files by a path, whatever else
//! would let it ([kernel document](https://docs.kernel.org/userspace-api/landlock.html)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::call::check;

/// Asks for the version of the kernel's Landlock (`LANDLOCK_CREATE_RULESET_VERSION`).
const VERSION: libc::c_long = 1;

/// The accesses to files that each version of Landlock knows, as bits up to this one: version 2 knows
/// moves between directories, version 3 cuts, version 5 requests to devices.
const FILE_ACCESSES: [u32; 5] = [13, 14, 15, 15, 16];

/// Those to TCP ports (`LANDLOCK_ACCESS_NET_*`), which version 4 knows.
const PORT_ACCESSES: u64 = 0b11;
const WITH_PORTS: usize = 4;

/// `struct landlock_ruleset_attr`, as far as it is used.
#[repr(C)]
struct Ruleset {
    files: u64,
    ports: u64,
}

/// Lets the calling thread, and those that it makes, open no file and no directory any more, and reach
/// no port. What is open already stays so. Returns false if the kernel has no Landlock.
///
/// # Errors
///
/// The kernel's. The thread needs `CAP_SYS_ADMIN` or must have given up gaining rights
/// (`PR_SET_NO_NEW_PRIVS`).
pub(crate) fn forbid_files() -> io::Result<bool> {
    let none = ptr::null::<Ruleset>();
    // SAFETY: the call takes a null pointer where it is asked for the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) };
    let Some(known) = usize::try_from(version).ok().filter(|known| *known > 0) else {
        return Ok(false);
    };
    let bits = FILE_ACCESSES[known.min(FILE_ACCESSES.len()) - 1];
    let rules = Ruleset {
        files: (1 << bits) - 1,
        ports: if known < WITH_PORTS { 0 } else { PORT_ACCESSES },
    };
    // SAFETY: the rules have the size given, and the descriptor is new, and nobody else's.
    unsafe {
        let size = size_of_val(&rules);
        let made = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const rules, size, 0);
        check(made)?;
        let ruleset = OwnedFd::from_raw_fd(made as RawFd);
        let restricted = libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0);
        check(restricted)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;
    use std::thread;

    use super::*;
    use crate::rights::ThreadRights;

    #[test]
    #[ignore = "needs a kernel with Landlock"]
    fn nothing_can_be_opened_that_is_not_open() {
        let outcome = thread::spawn(|| {
            let mut open = File::open("/proc/self/status").unwrap();
            ThreadRights::NONE.keep().unwrap();
            if !forbid_files().unwrap() {
                return false;
            }
            assert!(open.read(&mut [0; 8]).unwrap() > 0);
            for refused in [
                File::open("/dev/null").map(drop),
                fs::read_dir("/").map(drop),
                fs::create_dir("/tmp/never"),
            ] {
                let error = refused.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            }
            true
        });
        if !outcome.join().unwrap() {
            panic!("skipped: the kernel has no Landlock");
        }
    }
}
