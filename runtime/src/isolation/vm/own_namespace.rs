//! A user namespace for an ordinary user's VMs, in which this program is run anew as root: it has the
//! user's own id there as 0, and from 1 the ids that `/etc/subuid` and `/etc/subgid` give that user.
//!
//! Programs that call nacre in a user namespace of their own making, as Podman does, need none of
//! this.

use std::{
    env, fs,
    io::{self, Read, Write},
    iter,
    os::unix::{net::UnixStream, process::CommandExt},
    path::Path,
    process::Command,
};

use nacre_agent::container::outside;
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork, getegid, geteuid},
};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxIdMappingBuilder};

use crate::{binary, log};

/// Tells the program that it is in a namespace that was made here.
const VARIABLE: &str = "NACRE_USER_NAMESPACE";

/// How long an error of the process that maps ids may be, in bytes.
const MAX_ERROR: u64 = 4096;

/// Why an ordinary user can't have a VM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnNamespaceError {
    #[error("can't make a user namespace, which an ordinary user's VM needs")]
    Make(#[source] io::Error),
    #[error("can't map ids in a user namespace, which an ordinary user's VM needs: {0}")]
    Map(String),
    #[error("can't run nacre in a user namespace")]
    Run(#[source] io::Error),
    #[error(
        "linux.{field}: the {count} ids from {first} aren't all this user's: see /etc/subuid and \
         /etc/subgid"
    )]
    NotTheUsers {
        field: &'static str,
        first: u32,
        count: u32,
    },
    #[error("can't read which ids this user has")]
    Ids(#[source] io::Error),
}

/// Runs this program anew in a user namespace, unless this process is root already: the host's, or
/// that of a user namespace. To be called while there is a single thread.
pub(super) fn become_root() -> Result<(), OwnNamespaceError> {
    if geteuid().is_root() {
        return Ok(());
    }
    enter(&own_ids().map_err(OwnNamespaceError::Ids)?)?;
    let mut words = env::args_os();
    let name = words.next().unwrap_or_default();
    let mut anew = Command::new("/proc/self/exe");
    anew.arg0(name).args(words).env(VARIABLE, "1");
    // SAFETY: there is no other thread.
    let error = unsafe { binary::tell(|| anew.exec()) };
    Err(OwnNamespaceError::Run(error))
}

/// Moves this process into a new user namespace in which these ids are mapped.
fn enter(ids: &Linux) -> Result<(), OwnNamespaceError> {
    let make = OwnNamespaceError::Make;
    let (mut ours, theirs) = UnixStream::pair().map_err(make)?;
    let this = Pid::this();
    // SAFETY: this process has a single thread.
    match unsafe { fork() }.map_err(|error| make(error.into()))? {
        ForkResult::Child => {
            drop(ours);
            map(theirs, this, ids);
            // SAFETY: ends the process without running any more of it.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let made = unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from);
            let told = made.and_then(|()| ours.write_all(&[0]));
            let mut error = String::new();
            let heard = told.and_then(|()| ours.take(MAX_ERROR).read_to_string(&mut error));
            while waitpid(child, None) == Err(Errno::EINTR) {}
            heard.map_err(make)?;
            match error.as_str() {
                "" => Ok(()),
                _ => Err(OwnNamespaceError::Map(error)),
            }
        }
    }
}

/// Maps the ids of that process once it is in its user namespace, from outside: that takes no rights
/// or a program that has them. Says what fails.
fn map(mut line: UnixStream, process: Pid, ids: &Linux) {
    // The other process may have failed.
    if line.read_exact(&mut [0]).is_ok()
        && let Err(error) = outside::map_ids(process, ids)
    {
        let _ = line.write_all(log::chain(&error).as_bytes());
    }
}

/// Returns the mappings of all ids that this process's user may have.
fn own_ids() -> io::Result<Linux> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let name = name_of(user, &fs::read_to_string("/etc/passwd").unwrap_or_default());
    let given = |file: &str| match fs::read_to_string(Path::new("/etc").join(file)) {
        Ok(text) => Ok(given_to(user, name.as_deref(), &text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let mut linux = Linux::default();
    linux.set_uid_mappings(Some(mappings(user, given("subuid")?)));
    linux.set_gid_mappings(Some(mappings(group, given("subgid")?)));
    Ok(linux)
}

/// Whether this process's user has ids besides its own.
pub(crate) fn has_subordinate_ids() -> io::Result<bool> {
    let ids = own_ids()?;
    let are_many = |mappings: &Option<Vec<LinuxIdMapping>>| {
        mappings.as_ref().is_some_and(|mappings| mappings.len() > 1)
    };
    Ok(are_many(ids.uid_mappings()) && are_many(ids.gid_mappings()))
}

/// Returns the user's name by passwd(5).
fn name_of(user: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then(|| name.to_owned())
    })
}

/// Returns the ranges that belong to a user by subuid(5): the first of each, and how many.
fn given_to(user: u32, name: Option<&str>, text: &str) -> Vec<(u32, u32)> {
    let number = user.to_string();
    let range = |line: &str| {
        let mut fields = line.split(':');
        let whose = fields.next()?;
        let (first, count) = (
            fields.next()?.parse().ok()?,
            fields.next()?.trim().parse().ok()?,
        );
        (whose == number || Some(whose) == name).then_some((first, count))
    };
    text.lines().filter_map(range).collect()
}

/// Maps 0 to the user's own id, and the ids from 1 to those that it was given.
fn mappings(own: u32, given: Vec<(u32, u32)>) -> Vec<LinuxIdMapping> {
    let mut next = 0_u32;
    let mut mappings = Vec::new();
    for (first, count) in iter::once((own, 1)).chain(given) {
        let Some(end) = next.checked_add(count).filter(|_| count > 0) else {
            continue;
        };
        mappings.push(mapping(next, first, count));
        next = end;
    }
    mappings
}

fn mapping(container: u32, host: u32, count: u32) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .container_id(container)
        .host_id(host)
        .size(count)
        .build()
        .unwrap_or_default()
}

/// If this process is in a namespace that was made here, gives the ids that a configuration maps a
/// container's to the names that they have in it: whoever wrote it knows them by those outside.
pub(super) fn translate(linux: Option<&mut Linux>) -> Result<(), OwnNamespaceError> {
    if env::var_os(VARIABLE).is_none() {
        return Ok(());
    }
    // SAFETY: there is no other thread.
    unsafe { env::remove_var(VARIABLE) };
    let Some(linux) = linux else {
        return Ok(());
    };
    translate_ids("uidMappings", "uid_map", linux.uid_mappings_mut())?;
    translate_ids("gidMappings", "gid_map", linux.gid_mappings_mut())
}

fn translate_ids(
    field: &'static str,
    file: &str,
    asked: &mut Option<Vec<LinuxIdMapping>>,
) -> Result<(), OwnNamespaceError> {
    let Some(asked) = asked else {
        return Ok(());
    };
    let map = fs::read_to_string(Path::new("/proc/self").join(file));
    let ids = ranges(&map.map_err(OwnNamespaceError::Ids)?);
    let inside = asked.iter().map(|one| {
        inside(one, &ids).ok_or(OwnNamespaceError::NotTheUsers {
            field,
            first: one.host_id(),
            count: one.size(),
        })
    });
    *asked = inside.collect::<Result<Vec<_>, _>>()?.concat();
    Ok(())
}

/// Parses the map of a user namespace: ids inside, ids outside, how many.
fn ranges(map: &str) -> Vec<[u32; 3]> {
    let range = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse().ok());
        Some([words.next()??, words.next()??, words.next()??])
    };
    map.lines().filter_map(range).collect()
}

/// Returns what a mapping to ids outside is inside, in as many pieces as these are mapped in.
fn inside(asked: &LinuxIdMapping, ids: &[[u32; 3]]) -> Option<Vec<LinuxIdMapping>> {
    let (mut container, mut outside, mut left) =
        (asked.container_id(), asked.host_id(), asked.size());
    let mut pieces = Vec::new();
    while left > 0 {
        let (id, there) = ids.iter().find_map(|[inside, first, count]| {
            let offset = outside
                .checked_sub(*first)
                .filter(|offset| offset < count)?;
            Some((inside.checked_add(offset)?, count - offset))
        })?;
        let count = left.min(there);
        pieces.push(mapping(container, id, count));
        container = container.checked_add(count)?;
        outside = outside.checked_add(count)?;
        left -= count;
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(mappings: &[LinuxIdMapping]) -> Vec<[u32; 3]> {
        let numbers = |one: &LinuxIdMapping| [one.container_id(), one.host_id(), one.size()];
        mappings.iter().map(numbers).collect()
    }

    #[test]
    fn a_user_has_its_own_id_and_those_that_it_is_given() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        let name = name_of(1000, passwd);
        assert_eq!(name.as_deref(), Some("ann"));
        assert_eq!(name_of(7, passwd), None);
        let subuid = "bob:1:5\nann:100000:65536\n1000:300000:10\nann:x:1\n";
        let given = given_to(1000, name.as_deref(), subuid);
        assert_eq!(given, [(100_000, 65536), (300_000, 10)]);
        assert_eq!(
            numbers(&mappings(1000, given)),
            [[0, 1000, 1], [1, 100_000, 65536], [65537, 300_000, 10]]
        );
        assert_eq!(numbers(&mappings(7, Vec::new())), [[0, 7, 1]]);
    }

    #[test]
    fn mapped_ids_get_the_names_that_they_have_inside() {
        let ids = ranges("0 1000 1\n1 100000 65536\n65537 165536 10\n");
        for (asked, expected) in [
            ([0, 1000, 1], Some(vec![[0, 0, 1]])),
            ([5, 100_000, 65536], Some(vec![[5, 1, 65536]])),
            ([0, 165_530, 10], Some(vec![[0, 65531, 6], [6, 65537, 4]])),
            ([0, 1000, 2], None),
            ([0, 0, 1], None),
            ([0, u32::MAX, 1], None),
        ] {
            let [container, host, count] = asked;
            let found = inside(&mapping(container, host, count), &ids);
            assert_eq!(found.as_deref().map(numbers), expected, "{asked:?}");
        }
    }
}
