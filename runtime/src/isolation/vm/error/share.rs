//! Why the files of a container can't be shared with its guest.

use std::io;

/// Why the share could not be assembled.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct ShareError {
    what: String,
    #[source]
    source: io::Error,
}

pub(in crate::isolation::vm) fn share_failed<E: Into<io::Error>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> ShareError {
    let what = what.into();
    move |source| ShareError {
        what,
        source: source.into(),
    }
}
