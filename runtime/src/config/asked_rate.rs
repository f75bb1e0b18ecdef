//! A limit on what is used each second, as it is asked for.

use serde::Deserialize;

use super::bytes::Bytes;

/// A limit on one kind of device; what is absent isn't limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AskedRate {
    /// Bytes a second.
    pub(crate) bandwidth: Option<Bytes>,
    /// Operations a second.
    pub(crate) operations: Option<u64>,
}
