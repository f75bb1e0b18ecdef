//! What a thread of this process may do as root. Whatever works on what a guest has written needs
//! none of it, and gives it up before it sees the first byte.
//!
//! Threads share their memory: a thread that was taken over can become its process's other
//! threads, with some luck. What they keep is what that is worth.

use std::io;

use crate::call::check;

/// The layout of capset(2)'s arguments: a header of two words, and three sets of two.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `CAP_SETPCAP`.
const SETPCAP: u8 = 8;

/// A thread's capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadRights(u64);

impl ThreadRights {
    /// Those of a thread that works with what is open already.
    pub const NONE: ThreadRights = ThreadRights::of(&[]);

    /// Those that have these numbers (`linux/capability.h`, below 64).
    pub const fn of(capabilities: &[u8]) -> ThreadRights {
        let (mut set, mut rest) = (0, capabilities);
        while let [first, others @ ..] = rest {
            set |= 1 << *first;
            rest = others;
        }
        ThreadRights(set)
    }

    /// Leaves the calling thread only these, as far as it has them, and lets neither it nor the
    /// threads that it makes get any others: no other set has any (capabilities(7)), and what is
    /// executed gives none (`PR_SET_NO_NEW_PRIVS`).
    ///
    /// # Errors
    ///
    /// The kernel's, if it refuses.
    pub fn keep(self) -> io::Result<()> {
        let has = permitted()?;
        // SAFETY: the call takes numbers.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
        // A thread that can't change this set was made by one that has done so, or by an ordinary
        // user's process.
        if has & 1 << SETPCAP != 0 {
            empty_bounding_set()?;
        }
        set(has & self.0)
    }
}

/// Drops every capability that this kernel knows from the thread's bounding set. Makes only system
/// calls.
pub(crate) fn empty_bounding_set() -> io::Result<()> {
    for capability in 0.. {
        // SAFETY: the calls take numbers.
        let dropped = unsafe {
            match libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) {
                // There is no such capability, nor any after it.
                read if read < 0 => break,
                _ => libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0),
            }
        };
        check(dropped.into())?;
    }
    Ok(())
}

/// Returns the thread's permitted capabilities.
fn permitted() -> io::Result<u64> {
    let mut header = [CAPABILITY_VERSION, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: both have the layout that the version in the header says, and are valid for the call.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    check(got)?;
    let [_, low, _, _, high, _] = sets;
    Ok(u64::from(low) | u64::from(high) << 32)
}

/// Sets the thread's permitted and effective capabilities, and leaves it no inheritable ones, nor
/// with that any ambient ones. Makes only system calls.
pub(crate) fn set(capabilities: u64) -> io::Result<()> {
    let (low, high) = (capabilities as u32, (capabilities >> 32) as u32);
    let header = [CAPABILITY_VERSION, 0];
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: both have the layout that the version in the header says.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    /// Returns fields of the calling thread's status.
    fn status(names: &[&str]) -> Vec<u64> {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let field = |name: &&str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(*name)).unwrap();
            u64::from_str_radix(value.trim_start_matches(':').trim(), 16).unwrap()
        };
        names.iter().map(field).collect()
    }

    const FIELDS: [&str; 6] = [
        "CapPrm",
        "CapEff",
        "CapInh",
        "CapAmb",
        "CapBnd",
        "NoNewPrivs",
    ];

    #[test]
    fn a_thread_keeps_what_it_names_and_passes_on_no_more() {
        let before = status(&FIELDS);
        let is_root = before[0] & 1 << SETPCAP != 0;
        let bounding = if is_root { 0 } else { before[4] };
        // CAP_CHOWN and CAP_SETFCAP, one at each end of the words.
        let kept = before[0] & (1 | 1 << 31);
        thread::spawn(move || {
            ThreadRights::of(&[0, 31]).keep().unwrap();
            assert_eq!(status(&FIELDS), [kept, kept, 0, 0, bounding, 1]);
            let later = thread::spawn(move || {
                assert_eq!(status(&FIELDS), [kept, kept, 0, 0, bounding, 1]);
                ThreadRights::NONE.keep().unwrap();
                assert_eq!(status(&FIELDS), [0, 0, 0, 0, bounding, 1]);
                // There is no way back.
                ThreadRights::of(&[0, 31]).keep().unwrap();
                assert_eq!(status(&FIELDS), [0, 0, 0, 0, bounding, 1]);
            });
            later.join().unwrap();
        })
        .join()
        .unwrap();
        // Other threads have lost nothing.
        assert_eq!(status(&FIELDS), before);
    }
}
