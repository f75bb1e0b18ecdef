//! `linux.uidMappings` and `linux.gidMappings`
//! ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)).

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{Pid, getegid, geteuid};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Process};
use rustix::thread::{CapabilitySet, capabilities};

use super::channel::wait_until_readable;
use super::config::ConfigError;
use super::error::{InitError, Step};
use super::procfs::Proc;
use super::sys;

/// The kernel's limit on the lines of a map.
const MAX_LINES: usize = 340;

/// How long newuidmap and newgidmap may take: they may ask a directory service.
const HELPER_BOUND: Duration = Duration::from_secs(20);

/// How much is read of what they have to say.
const MAX_WORDS: u64 = 4096;

/// A user namespace whose ids can't be mapped as asked.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// The kernel refused it.
    #[error("can't write linux.{field} to {file}")]
    Write {
        /// `uidMappings` or `gidMappings`.
        field: &'static str,
        /// The file that takes it.
        file: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The program that may map ids for ordinary users isn't there, or can't be run.
    #[error(
        "linux.{field} maps more than this user's own id, which takes {program} (of the \
         package uidmap or shadow-utils)"
    )]
    NoHelper {
        /// `uidMappings` or `gidMappings`.
        field: &'static str,
        /// The program.
        program: &'static str,
        /// Why it can't be run.
        source: io::Error,
    },
    /// That program refused it.
    #[error("linux.{field}: {program} refused it (are the ids this user's by {file}?): {words}")]
    Helper {
        /// `uidMappings` or `gidMappings`.
        field: &'static str,
        /// The program.
        program: &'static str,
        /// What it goes by.
        file: &'static str,
        /// What it said.
        words: String,
    },
    /// It didn't end.
    #[error("linux.{field}: {program} isn't done after {} s", HELPER_BOUND.as_secs())]
    HelperTimedOut {
        /// `uidMappings` or `gidMappings`.
        field: &'static str,
        /// The program.
        program: &'static str,
    },
}

/// What the two kinds of ids differ in.
struct Kind {
    field: &'static str,
    file: &'static str,
    capability: CapabilitySet,
    helper: &'static str,
    helpers_file: &'static str,
}

const USERS: Kind = Kind {
    field: "uidMappings",
    file: "uid_map",
    capability: CapabilitySet::SETUID,
    helper: "newuidmap",
    helpers_file: "/etc/subuid",
};

const GROUPS: Kind = Kind {
    field: "gidMappings",
    file: "gid_map",
    capability: CapabilitySet::SETGID,
    helper: "newgidmap",
    helpers_file: "/etc/subgid",
};

/// `linux.uidMappings` and `linux.gidMappings`, as far as they say something.
fn mappings(linux: &Linux) -> [(&'static Kind, &[LinuxIdMapping]); 2] {
    let joined = joins_user_namespace(linux);
    [
        (&USERS, linux.uid_mappings()),
        (&GROUPS, linux.gid_mappings()),
    ]
    .map(|(kind, given)| match given.as_deref().unwrap_or_default() {
        // Podman writes it where a namespace is joined, for runtimes that insist on something.
        [one] if joined && (one.container_id(), one.host_id(), one.size()) == (0, 0, 1) => {
            (kind, &[] as &[LinuxIdMapping])
        }
        given => (kind, given),
    })
}

fn joins_user_namespace(linux: &Linux) -> bool {
    let mut namespaces = linux.namespaces().iter().flatten();
    namespaces.any(|n| {
        n.typ() == LinuxNamespaceType::User && n.path().iter().any(|p| !p.as_os_str().is_empty())
    })
}

/// Checks the mappings by themselves, and that there are some where they are needed and none
/// where they have no use.
pub(super) fn validate(linux: &Linux) -> Result<(), ConfigError> {
    let mut namespaces = linux.namespaces().iter().flatten();
    let has_user = namespaces.any(|n| n.typ() == LinuxNamespaceType::User);
    let joined = joins_user_namespace(linux);
    for (kind, mappings) in mappings(linux) {
        let field = format!("linux.{}", kind.field);
        if !has_user && !mappings.is_empty() {
            let problem = "it needs a user namespace, which the container lacks";
            return Err(ConfigError::invalid(field, problem));
        }
        if has_user && !joined && mappings.is_empty() {
            return Err(ConfigError::missing(field));
        }
        if mappings.len() > MAX_LINES {
            let problem = format!(
                "{} of them are over the kernel's limit of {MAX_LINES}",
                mappings.len()
            );
            return Err(ConfigError::invalid(field, problem));
        }
        validate_ranges(&field, mappings)?;
        if !mappings.is_empty() && !is_mapped(mappings, 0) {
            let problem = "the container's id 0 isn't mapped, as which it is set up";
            return Err(ConfigError::invalid(field, problem));
        }
    }
    Ok(())
}

/// Checks that mappings are ones that the kernel takes.
pub(super) fn validate_ranges(field: &str, mappings: &[LinuxIdMapping]) -> Result<(), ConfigError> {
    for (index, mapping) in mappings.iter().enumerate() {
        let invalid = |name: &str, problem: String| {
            Err(ConfigError::invalid(
                format!("{field}[{index}].{name}"),
                problem,
            ))
        };
        let size = mapping.size();
        if size == 0 {
            return invalid("size", "it maps nothing".to_owned());
        }
        for (name, first) in [
            ("containerID", mapping.container_id()),
            ("hostID", mapping.host_id()),
        ] {
            // The last id of all stands for none.
            if first.checked_add(size).is_none() {
                return invalid(
                    name,
                    format!("{size} ids from {first} on are more than there are"),
                );
            }
        }
        let overlaps =
            |a: u32, b: u32, of_b: u32| a < b.saturating_add(of_b) && b < a.saturating_add(size);
        for other in mappings.iter().take(index) {
            for (name, own, others) in [
                ("containerID", mapping.container_id(), other.container_id()),
                ("hostID", mapping.host_id(), other.host_id()),
            ] {
                if overlaps(own, others, other.size()) {
                    return invalid(name, "ids of it are mapped twice".to_owned());
                }
            }
        }
    }
    Ok(())
}

/// Checks that the ids of a process are ones that there are in its user namespace.
pub(super) fn validate_user(linux: &Linux, process: &Process) -> Result<(), ConfigError> {
    let user = process.user();
    let [(users, uids), (groups, gids)] = mappings(linux);
    let additional = user.additional_gids().iter().flatten().enumerate();
    let additional =
        additional.map(|(index, gid)| (format!("additionalGids[{index}]"), *gid, groups, gids));
    let ids = [
        ("uid".to_owned(), user.uid(), users, uids),
        ("gid".to_owned(), user.gid(), groups, gids),
    ];
    for (field, id, kind, given) in ids.into_iter().chain(additional) {
        // Without any there is no user namespace, or one with mappings that aren't known.
        if !given.is_empty() && !is_mapped(given, id) {
            return Err(ConfigError::invalid(
                format!("process.user.{field}"),
                format!("{id} isn't mapped by linux.{}", kind.field),
            ));
        }
    }
    Ok(())
}

fn is_mapped(mappings: &[LinuxIdMapping], id: u32) -> bool {
    host_id(mappings, id).is_some()
}

fn host_id(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id())?;
        (offset < mapping.size()).then(|| mapping.host_id().checked_add(offset))?
    })
}

/// What a user of the container is to the engine, if that is known.
pub(super) fn host_uid(linux: &Linux, uid: u32) -> Option<u32> {
    let [(_, users), _] = mappings(linux);
    host_id(users, uid)
}

/// Maps the ids of the new user namespace that the process `pid` is in.
pub(super) fn write(proc: &Proc, pid: Pid, linux: &Linux) -> Result<(), IdMapError> {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    // Groups first: without the right to map any, one has to give up setting groups in there,
    // and may no more once they are mapped.
    let [(users, uids), (groups, gids)] = mappings(linux);
    for (kind, mappings, own) in [
        (groups, gids, getegid().as_raw()),
        (users, uids, geteuid().as_raw()),
    ] {
        let file = format!("{pid}/{}", kind.file);
        let only_own = matches!(mappings, [one] if one.host_id() == own && one.size() == 1);
        if !held.contains(kind.capability) {
            if !only_own {
                map_with_helper(kind, pid, mappings)?;
                continue;
            }
            if kind.capability == CapabilitySet::SETGID {
                write_file(proc, kind, &format!("{pid}/setgroups"), "deny")?;
            }
        }
        write_file(proc, kind, &file, &lines(mappings))?;
    }
    Ok(())
}

fn write_file(proc: &Proc, kind: &Kind, file: &str, value: &str) -> Result<(), IdMapError> {
    proc.write_file(file, value)
        .map_err(|source| IdMapError::Write {
            field: kind.field,
            file: format!("/proc/{file}"),
            source,
        })
}

/// As `/proc/PID/uid_map` takes them.
pub(super) fn lines(mappings: &[LinuxIdMapping]) -> String {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    mappings.iter().map(line).collect()
}

/// As an ordinary user: what belongs to it by `/etc/subuid` is mapped by a program that may.
fn map_with_helper(kind: &Kind, pid: Pid, mappings: &[LinuxIdMapping]) -> Result<(), IdMapError> {
    let (field, program) = (kind.field, kind.helper);
    let failed = |source| IdMapError::NoHelper {
        field,
        program,
        source,
    };
    let numbers = mappings
        .iter()
        .flat_map(|m| [m.container_id(), m.host_id(), m.size()]);
    let mut child = Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|n| n.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let ended = || {
        let pidfd = sys::pidfd_open(child.id().try_into().map_err(|_| ErrorKind::InvalidData)?)?;
        wait_until_readable(pidfd.as_fd(), HELPER_BOUND)
    };
    match ended() {
        Ok(true) => {}
        other => {
            // It may run as another user, which one can't kill. Then it is left to itself.
            let _ = child.kill();
            return Err(match other {
                Err(error) => failed(error),
                Ok(_) => IdMapError::HelperTimedOut { field, program },
            });
        }
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // It has ended, so that this ends too.
        let _ = stderr.take(MAX_WORDS).read_to_end(&mut words);
    }
    let words = String::from_utf8_lossy(&words);
    let words = words.trim().strip_prefix(program).unwrap_or(words.trim());
    Err(IdMapError::Helper {
        field,
        program,
        file: kind.helpers_file,
        words: match words.trim_start_matches([':', ' ']) {
            "" => status.to_string(),
            words => words.replace('\n', "; "),
        },
    })
}

/// In a user namespace that was joined: checks that ids are mapped as the configuration says,
/// if it does.
pub(super) fn check_joined(proc: &Proc, linux: &Linux) -> Result<(), InitError> {
    for (kind, mappings) in mappings(linux) {
        if mappings.is_empty() {
            continue;
        }
        let file = format!("self/{}", kind.file);
        let map = proc.read(&file).step(|| format!("read /proc/{file}"))?;
        let sorted = |text: &str| {
            let numbers = |line: &str| -> Vec<u64> {
                line.split_whitespace()
                    .filter_map(|n| n.parse().ok())
                    .collect()
            };
            let mut lines: Vec<Vec<u64>> = text.lines().map(numbers).collect();
            lines.sort();
            lines
        };
        if sorted(&map) != sorted(&lines(mappings)) {
            return Err(InitError::OtherMappings { field: kind.field });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(json: serde_json::Value) -> Linux {
        serde_json::from_value(json).unwrap()
    }

    fn with(namespace: serde_json::Value, uids: &[[u32; 3]]) -> Linux {
        let map = |[container, host, size]: &[u32; 3]| serde_json::json!({"containerID": container, "hostID": host, "size": size});
        linux(serde_json::json!({
            "namespaces": [namespace],
            "uidMappings": uids.iter().map(map).collect::<Vec<_>>(),
            "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
        }))
    }

    fn new(uids: &[[u32; 3]]) -> Result<(), String> {
        validate(&with(serde_json::json!({"type": "user"}), uids)).map_err(|e| e.to_string())
    }

    #[test]
    fn ranges_are_checked() {
        new(&[[0, 1000, 1], [1, 100_000, 65536]]).unwrap();
        new(&[[1, 0, 1], [0, 1, 1]]).unwrap();
        new(&[[0, 0, u32::MAX]]).unwrap();
        let many: Vec<[u32; 3]> = (0..341).map(|id| [id, id, 1]).collect();
        new(&many[..340]).unwrap();
        for (uids, error) in [
            (&[][..], "linux.uidMappings is missing"),
            (&[[0, 5, 0]], "linux.uidMappings[0].size: it maps nothing"),
            (
                &[[0, 1, u32::MAX]],
                "linux.uidMappings[0].hostID: 4294967295 ids from 1 on are more than there are",
            ),
            (
                &[[0, 1000, 10], [9, 2000, 1]],
                "linux.uidMappings[1].containerID: ids of it are mapped twice",
            ),
            (
                &[[0, 1000, 10], [10, 990, 11]],
                "linux.uidMappings[1].hostID: ids of it are mapped twice",
            ),
            (
                &[[1, 1000, 10]],
                "linux.uidMappings: the container's id 0 isn't mapped, as which it is set up",
            ),
            (
                &many,
                "linux.uidMappings: 341 of them are over the kernel's limit of 340",
            ),
        ] {
            assert_eq!(new(uids).unwrap_err(), error);
        }
    }

    #[test]
    fn mappings_need_a_user_namespace_that_is_new() {
        let error = |namespace, uids: &[[u32; 3]]| {
            validate(&with(namespace, uids)).map_err(|e| e.to_string())
        };
        assert_eq!(
            error(serde_json::json!({"type": "pid"}), &[[0, 0, 1]]).unwrap_err(),
            "linux.uidMappings: it needs a user namespace, which the container lacks"
        );
        let joined = serde_json::json!({"type": "user", "path": "/proc/1/ns/user"});
        error(joined.clone(), &[[0, 0, 1]]).unwrap();
        error(joined, &[]).unwrap();
    }

    #[test]
    fn a_user_must_be_mapped() {
        let linux = with(
            serde_json::json!({"type": "user"}),
            &[[0, 1000, 1], [5, 2000, 2]],
        );
        let user = |user: serde_json::Value| {
            let process = serde_json::json!({"user": user, "cwd": "/", "args": ["x"]});
            let process: Process = serde_json::from_value(process).unwrap();
            validate_user(&linux, &process).map_err(|e| e.to_string())
        };
        user(serde_json::json!({"uid": 6, "gid": 0})).unwrap();
        for (json, error) in [
            (
                serde_json::json!({"uid": 7, "gid": 0}),
                "process.user.uid: 7 isn't mapped by linux.uidMappings",
            ),
            (
                serde_json::json!({"uid": 0, "gid": 1}),
                "process.user.gid: 1 isn't mapped by linux.gidMappings",
            ),
            (
                serde_json::json!({"uid": 0, "gid": 0, "additionalGids": [0, 9]}),
                "process.user.additionalGids[1]: 9 isn't mapped by linux.gidMappings",
            ),
        ] {
            assert_eq!(user(json).unwrap_err(), error);
        }
        assert_eq!(host_uid(&linux, 6), Some(2001));
        assert_eq!(host_uid(&linux, 4), None);
    }

    #[test]
    fn maps_are_as_the_kernel_takes_them() {
        let linux = with(
            serde_json::json!({"type": "user"}),
            &[[0, 1000, 1], [1, 5, 2]],
        );
        assert_eq!(lines(mappings(&linux)[0].1), "0 1000 1\n1 5 2\n");
    }
}
