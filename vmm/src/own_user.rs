//! A user and a group that nothing else has, and how a process without rights becomes these.
//!
//! On the host these are numbers that no distribution assigns. In a user namespace only the ids exist
//! that are mapped there. There a process takes one of the last, if there are many, and then makes a
//! user namespace of its own in which no id is mapped: it is nobody there, has no rights over the one
//! that it leaves, and its processes are counted for themselves.

use std::fs;
use std::io;
use std::ptr;

use crate::call::check;
use crate::rights;

/// The first of these users and groups where all ids exist.
const FIRST: u32 = 0x6e00_0000;

/// How many of a namespace's ids come to one of those that are taken: the last ones, which few
/// containers use.
const SHARE: u32 = 64;

/// A user and a group for what this process confines, which no other process's have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnUser {
    user: Option<u32>,
    group: Option<u32>,
    /// What the user is called outside this process's user namespace.
    outside: Option<u32>,
    /// Whether it goes with a user namespace.
    leaves_namespace: bool,
}

impl OwnUser {
    /// Chooses one that this process can become.
    ///
    /// # Errors
    ///
    /// If `/proc` doesn't say which ids there are.
    pub fn choose() -> io::Result<OwnUser> {
        let users = Ids::read("/proc/self/uid_map")?;
        let groups = Ids::read("/proc/self/gid_map")?;
        Ok(OwnUser::among(&users, &groups, std::process::id()))
    }

    fn among(users: &Ids, groups: &Ids, number: u32) -> OwnUser {
        let user = users.own(number);
        OwnUser {
            user,
            group: groups.own(number),
            outside: user.and_then(|user| users.outside(user)),
            leaves_namespace: !users.are_all(),
        }
    }

    /// Returns the user's number as the host's kernel logs it, as far as that is known.
    pub(crate) fn logged(self) -> Option<u32> {
        self.outside
    }

    /// Becomes this user, with no other group, and leaves the process no capability and no way to
    /// get any. Makes only system calls, for the calling thread.
    pub(crate) fn become_it(self) -> io::Result<()> {
        rights::empty_bounding_set()?;
        // glibc's functions would look for other threads. SAFETY: no pointers but a null that goes
        // with a count of 0.
        unsafe {
            let none = ptr::null::<libc::gid_t>();
            match check(libc::syscall(libc::SYS_setgroups, 0, none)) {
                // Where no group but the caller's is mapped, nobody may leave groups.
                Err(error) if self.group.is_none() && is_refusal(&error) => {}
                other => other?,
            }
            if let Some(group) = self.group {
                check(libc::syscall(libc::SYS_setresgid, group, group, group))?;
            }
            if let Some(user) = self.user {
                check(libc::syscall(libc::SYS_setresuid, user, user, user))?;
            }
            if self.leaves_namespace {
                check(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER))?;
                // A new namespace gives all capabilities over it.
                rights::empty_bounding_set()?;
            }
        }
        // The inheritable set is still as it was.
        rights::set(0)?;
        // SAFETY: the call takes numbers.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

/// The ids of a user namespace: those inside, those outside, how many.
struct Ids(Vec<[u32; 3]>);

impl Ids {
    fn read(path: &str) -> io::Result<Ids> {
        Ids::parse(&fs::read_to_string(path)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(map: &str) -> Option<Ids> {
        let line = |line: &str| {
            let mut words = line.split_whitespace().map(|word| word.parse().ok());
            Some([words.next()??, words.next()??, words.next()??])
        };
        map.lines().map(line).collect::<Option<_>>().map(Ids)
    }

    /// Whether these are the ids of the first user namespace.
    fn are_all(&self) -> bool {
        self.0 == [[0, 0, u32::MAX]]
    }

    /// Returns the id for the process with this number; `None` if there aren't enough.
    fn own(&self, number: u32) -> Option<u32> {
        if self.are_all() {
            return Some(FIRST + number);
        }
        let [first, _, count] = *self.0.iter().max_by_key(|[first, ..]| *first)?;
        let last = first.checked_add(count.checked_sub(1)?)?;
        let taken = number.checked_rem(count / SHARE)?;
        last.checked_sub(taken)
    }

    fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|[inside, outside, count]| {
            let offset = id.checked_sub(*inside).filter(|offset| offset < count)?;
            outside.checked_add(offset)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(map: &str) -> OwnUser {
        let ids = Ids::parse(map).unwrap();
        OwnUser::among(&ids, &ids, 7)
    }

    #[test]
    fn where_all_ids_exist_it_is_none_of_a_distributions() {
        let expected = OwnUser {
            user: Some(0x6e00_0007),
            group: Some(0x6e00_0007),
            outside: Some(0x6e00_0007),
            leaves_namespace: false,
        };
        assert_eq!(chosen("         0          0 4294967295\n"), expected);
    }

    #[test]
    fn in_a_user_namespace_it_is_one_of_the_last() {
        let podmans = "0 1000 1\n1 100000 65536\n";
        let kept_id = "0 1 1000\n1000 0 1\n1001 1001 64536\n";
        for (map, user, outside) in [
            (podmans, 65529, 165_528),
            (kept_id, 65529, 65529),
            ("0 5000 640\n", 632, 5632),
        ] {
            let expected = OwnUser {
                user: Some(user),
                group: Some(user),
                outside: Some(outside),
                leaves_namespace: true,
            };
            assert_eq!(chosen(map), expected, "{map}");
        }
    }

    #[test]
    fn where_few_ids_are_mapped_it_is_this_processs_own() {
        for map in ["0 1000 1\n", "0 1000 1\n1 100000 63\n", ""] {
            let own = chosen(map);
            assert_eq!((own.user, own.group, own.outside), (None, None, None));
            assert!(own.leaves_namespace);
        }
    }

    #[test]
    fn what_is_no_map_is_refused() {
        assert!(Ids::parse("0 1000\n").is_none());
        assert!(Ids::parse("0 x 1\n").is_none());
    }
}
