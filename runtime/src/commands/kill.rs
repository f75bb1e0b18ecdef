//! `nacre kill`: sends a signal to a container's first process, or to all of them.

use std::str::FromStr;

use nacre_agent::container::config::has_new_namespace;
use nix::sys::signal::Signal;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::{
    cli::{Global, Kill},
    id::Id,
    isolation::{FoundContainer, Recipients, process, vm},
};

use super::{containers::store, error::Error};

/// The highest signal number on Linux.
const MAX_SIGNAL: i32 = 64;

pub(super) fn kill(global: &Global, arguments: &Kill) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let signal =
        parse(&arguments.signal).ok_or_else(|| Error::UnknownSignal(arguments.signal.clone()))?;
    let store = store(global)?;
    let record = store.record(&id)?;
    // Without a pid namespace of its own, a container doesn't end with its first process.
    let all = arguments.all || signal == libc::SIGKILL && !has_own_pid_namespace(&store.spec(&id)?);
    let to = if all {
        Recipients::All
    } else {
        Recipients::First
    };
    match FoundContainer::new(&store, &id, &record) {
        FoundContainer::Process(found) => process::kill(&found, signal, to)?,
        FoundContainer::Vm(found) => {
            let status = store.look(&id)?.status;
            vm::kill(&found, status, signal, to)?;
        }
    }
    Ok(0)
}

/// Returns whether a container's pid namespace is one in which no other process is at first.
fn has_own_pid_namespace(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    linux.is_some_and(|linux| has_new_namespace(linux, LinuxNamespaceType::Pid))
}

/// Parses a signal's number, or its name with or without `SIG`.
fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=MAX_SIGNAL).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    Signal::from_str(&format!("SIG{name}"))
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["15", "TERM", "SIGTERM", "term", "sigterm"] {
            assert_eq!(parse(text), Some(libc::SIGTERM), "{text}");
        }
        assert_eq!(parse("KILL"), Some(libc::SIGKILL));
        assert_eq!(
            (parse("0"), parse("37"), parse("64")),
            (Some(0), Some(37), Some(64))
        );
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in ["", "65", "-1", "SIGSIGTERM", "NONE", "15 "] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
