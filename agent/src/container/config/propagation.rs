//! Parses `linux.rootfsPropagation`.

/// `linux.rootfsPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Propagation {
    Private,
    /// Also the default, so that what the caller's namespace unmounts goes away in the container
    /// too.
    #[default]
    Slave,
    Shared,
    Unbindable,
}

impl Propagation {
    /// Parses the field's value; the recursive forms mean the same.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "" => Propagation::default(),
            "private" | "rprivate" => Propagation::Private,
            "slave" | "rslave" => Propagation::Slave,
            "shared" | "rshared" => Propagation::Shared,
            "unbindable" | "runbindable" => Propagation::Unbindable,
            _ => return None,
        })
    }
}
