//! Refuses settings of a configuration that would change a namespace of the host.
//!
//! A namespace that is joined by its path may be the caller's own, or that of the machine's first
//! process. Nothing is changed in these, as if the configuration had asked for no namespace.

use nix::sys::stat::stat;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::entry::Namespaces;
use crate::container::config::{ConfigError, sysctl};

/// Refuses what would be set in a namespace that `namespaces` has opened and that is the host's.
pub(crate) fn check(spec: &Spec, namespaces: &Namespaces) -> Result<(), ConfigError> {
    let linux = spec.linux().as_ref();
    let parameters = linux.and_then(|linux| linux.sysctl().as_ref());
    let parameters = parameters.into_iter().flatten().filter_map(|(name, _)| {
        let kind = sysctl::namespace(name)?;
        Some((format!("linux.sysctl.{name}"), kind))
    });
    let names = [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ]
    .into_iter()
    .filter(|(_, name)| name.as_ref().is_some_and(|name| !name.is_empty()))
    .map(|(field, _)| (field.to_owned(), LinuxNamespaceType::Uts));
    for (field, kind) in names.chain(parameters) {
        if is_hosts(namespaces, kind) {
            let problem = format!("it isn't allowed in the host's {kind} namespace");
            return Err(ConfigError::invalid(field, problem));
        }
    }
    Ok(())
}

/// Whether the joined namespace of this kind, if there is one, is the host's.
fn is_hosts(namespaces: &Namespaces, kind: LinuxNamespaceType) -> bool {
    let name = match kind {
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Uts => "uts",
        _ => return false,
    };
    // An ordinary user may not look at the first process's namespaces, and can't join them either.
    ["self", "1"]
        .into_iter()
        .filter_map(|process| stat(format!("/proc/{process}/ns/{name}").as_str()).ok())
        .any(|hosts| namespaces.joins_file(kind, &hosts))
}
