//! Which of `linux.namespaces` a configuration has.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

/// Whether a container has a namespace of its own making of this kind, and not one by path.
pub fn has_new_namespace(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux
        .namespaces()
        .iter()
        .flatten()
        .any(|n| n.typ() == kind && n.path().iter().all(|p| p.as_os_str().is_empty()))
}

/// Whether a container has a namespace of this kind that isn't the caller's.
pub(super) fn has_namespace(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux.namespaces().iter().flatten().any(|n| n.typ() == kind)
}
