//! `process.user`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::prctl::set_dumpable;
use oci_spec::runtime::User;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::container::error::{InitError, Step, StepError};

/// How much of the container's `/etc/passwd` is read, in bytes: it may be anything.
const PASSWD_MAX: u64 = 1 << 20;

/// Becomes `user`, with only its groups, and keeps the permitted capabilities.
pub(crate) fn become_user(user: &User) -> Result<(), InitError> {
    // Root keeps its capabilities anyway. The exec resets this.
    if user.uid() != 0 {
        set_keep_capabilities(true).step(|| "keep capabilities")?;
    }
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    match set_thread_groups(&groups) {
        // In a user namespace that an ordinary user has made, nobody can leave groups: that could
        // get around a file's denial of rights to a group.
        Err(Errno::PERM) if may_set_groups() => {
            if !groups.is_empty() {
                return Err(InitError::GroupsDenied);
            }
        }
        other => other.step(|| "set process.user.additionalGids")?,
    }
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    set_thread_res_gid(gid, gid, gid).step(|| format!("become group {}", user.gid()))?;
    set_thread_res_uid(uid, uid, uid).step(|| format!("become user {}", user.uid()))?;
    Ok(stay_undumpable()?)
}

/// Makes this process undumpable again: a change of ids makes it as dumpable as fs.suid_dumpable
/// says ([proc_sys_fs(5)](https://man7.org/linux/man-pages/man5/proc_sys_fs.5.html)).
fn stay_undumpable() -> Result<(), StepError> {
    set_dumpable(false).step(|| "become undumpable again")
}

/// Whether this process itself has the right to set groups.
fn may_set_groups() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETGID))
}

/// Becomes the root of a user namespace that this process has just entered.
pub(crate) fn become_root() -> Result<(), StepError> {
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .step(|| "become the root group of the user namespace")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
        .step(|| "become the root of the user namespace")?;
    stay_undumpable()
}

/// Returns the home directory of `uid` by the container's `/etc/passwd`, or `/`.
pub(crate) fn home(uid: u32) -> Vec<u8> {
    let home = || -> Option<Vec<u8>> {
        let file = open_regular(Path::new("/etc/passwd"))?;
        find_home(BufReader::new(file.take(PASSWD_MAX)), uid)
    };
    home().unwrap_or_else(|| b"/".to_vec())
}

fn open_regular(path: &Path) -> Option<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn find_home(passwd: impl BufRead, uid: u32) -> Option<Vec<u8>> {
    for line in passwd.split(b'\n') {
        let line = line.ok()?;
        // name:password:uid:gid:comment:home:shell
        let mut fields = line.split(|b| *b == b':').skip(2);
        let of_line = fields
            .next()
            .and_then(|f| str::from_utf8(f).ok()?.parse().ok());
        if of_line == Some(uid) {
            return fields.nth(2).filter(|home| !home.is_empty()).map(Vec::from);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        broken\n\
        \xff:x:1:1::/first:/bin/sh\n\
        again:x:1:1::/second:/bin/sh\n\
        homeless:x:2:2:::/bin/sh\n\
        short:x:3:3\n\
        last:x:4294967294:3::/last";

    #[test]
    fn the_home_is_that_of_the_first_line_with_the_uid() {
        for (uid, home) in [
            (0, Some("/root")),
            (1, Some("/first")),
            (2, None),
            (3, None),
            (4294967294, Some("/last")),
            (1000, None),
        ] {
            let found = find_home(PASSWD, uid);
            assert_eq!(found.as_deref(), home.map(str::as_bytes), "{uid}");
        }
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_regular(&fifo).is_none());
        assert!(open_regular(directory.path()).is_none());
        assert!(open_regular(Path::new("/etc/passwd")).is_some());
    }
}
