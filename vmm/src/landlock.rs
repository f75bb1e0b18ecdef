//! Landlock: takes from a thread what it could reach of the host's files by a path, whatever else
//! would let it ([kernel document](https://docs.kernel.org/userspace-api/landlock.html)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use crate::call::check;

/// Ask for the version of the kernel's Landlock, and for the set of its mended faults
/// (`LANDLOCK_CREATE_RULESET_VERSION`, `LANDLOCK_CREATE_RULESET_ERRATA`).
const VERSION: libc::c_long = 1;
const ERRATA: libc::c_long = 2;

/// The accesses to files that each version of Landlock knows, as bits up to this one: version 2 knows
/// moves between directories, version 3 cuts, version 5 requests to devices.
const FILE_ACCESSES: [u32; 5] = [13, 14, 15, 15, 16];

/// Two of them: to execute a file, and to make requests to a device (`LANDLOCK_ACCESS_FS_EXECUTE`,
/// `LANDLOCK_ACCESS_FS_IOCTL_DEV`).
const EXECUTE: u64 = 1;
const DEVICE_REQUESTS: u64 = 1 << 15;

/// Those to TCP ports (`LANDLOCK_ACCESS_NET_*`), which version 4 knows.
const PORT_ACCESSES: u64 = 0b11;
const WITH_PORTS: usize = 4;

/// The version that knows what a [`Scope`] is.
const WITH_SCOPES: usize = 6;

/// The version that knows moves between directories: earlier ones forbid them to whoever has rules.
const WITH_MOVES: usize = 2;

/// The fault with directories that are moved out of what was mounted, third of the mended ones. Before,
/// whoever has rules is refused files there, and has the kernel warn of a fault of its own, which a host
/// may be set up to panic for.
const MOVED_AWAY: libc::c_long = 1 << 2;

/// `LANDLOCK_RULE_PATH_BENEATH`.
const BENEATH: libc::c_long = 1;

/// What a thread can reach of processes that aren't confined with it (`LANDLOCK_SCOPE_*`), where the
/// kernel can restrict that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Signals, but no unix sockets with abstract names.
    Signals = 0b01,
    /// Neither.
    Nothing = 0b11,
}

/// `struct landlock_ruleset_attr`, as far as it is used.
#[repr(C)]
struct Ruleset {
    files: u64,
    ports: u64,
    scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Rule {
    files: u64,
    directory: RawFd,
}

/// What the kernel's Landlock can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landlock {
    version: usize,
    mended: libc::c_long,
}

impl Landlock {
    /// Returns it; `None` if the kernel has none, or it isn't in force.
    pub fn find() -> Option<Landlock> {
        static FOUND: OnceLock<Option<Landlock>> = OnceLock::new();
        let ask = |what: libc::c_long| {
            let none = ptr::null::<Ruleset>();
            // SAFETY: the call takes a null pointer where it is asked such a thing.
            unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, what) }
        };
        *FOUND.get_or_init(|| {
            let version = usize::try_from(ask(VERSION)).ok();
            let version = version.filter(|version| *version > 0)?;
            // Kernels that can't be asked this have mended nothing.
            let mended = ask(ERRATA).max(0);
            Some(Landlock { version, mended })
        })
    }

    /// Its version (`ABI`).
    pub fn version(self) -> usize {
        self.version
    }

    /// Whether it can keep a thread to a directory in which that may do everything.
    pub fn keeps_to_directories(self) -> bool {
        self.version >= WITH_MOVES && self.mended & MOVED_AWAY != 0
    }

    /// Lets the calling thread reach no file, but those below `directory`, and no port.
    fn restrict(self, directory: Option<BorrowedFd<'_>>, scope: Scope) -> io::Result<()> {
        let bits = FILE_ACCESSES[self.version.min(FILE_ACCESSES.len()) - 1];
        let if_known = |version, value| if self.version < version { 0 } else { value };
        let ruleset = Ruleset {
            files: (1 << bits) - 1,
            ports: if_known(WITH_PORTS, PORT_ACCESSES),
            scopes: if_known(WITH_SCOPES, scope as u64),
        };
        // SAFETY: the rules have the sizes given, and the descriptor is new, and nobody else's.
        unsafe {
            let size = size_of_val(&ruleset);
            let made = libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const ruleset,
                size,
                0,
            );
            check(made)?;
            let made = OwnedFd::from_raw_fd(made as RawFd);
            if let Some(directory) = directory {
                let rule = Rule {
                    files: ruleset.files & !(EXECUTE | DEVICE_REQUESTS),
                    directory: directory.as_raw_fd(),
                };
                check(libc::syscall(
                    libc::SYS_landlock_add_rule,
                    made.as_raw_fd(),
                    BENEATH,
                    &raw const rule,
                    0,
                ))?;
            }
            check(libc::syscall(
                libc::SYS_landlock_restrict_self,
                made.as_raw_fd(),
                0,
            ))
        }
    }
}

/// Lets the calling thread, and those that it makes, open no file and no directory any more, and reach
/// no port. What is open already stays so. Does nothing if the kernel has no Landlock.
///
/// # Errors
///
/// The kernel's. The thread needs `CAP_SYS_ADMIN` or must have given up gaining rights
/// (`PR_SET_NO_NEW_PRIVS`).
pub(crate) fn forbid_files(scope: Scope) -> io::Result<()> {
    Landlock::find().map_or(Ok(()), |landlock| landlock.restrict(None, scope))
}

/// Does the same, but for what is below `directory`, on whatever is mounted there: everything can be done
/// there, except to execute files and to make requests to devices. Does nothing if the kernel's Landlock
/// [can't do that](Landlock::keeps_to_directories).
///
/// # Errors
///
/// As [`forbid_files`].
pub(crate) fn keep_to(directory: BorrowedFd<'_>, scope: Scope) -> io::Result<()> {
    match Landlock::find().filter(|landlock| landlock.keeps_to_directories()) {
        Some(landlock) => landlock.restrict(Some(directory), scope),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
