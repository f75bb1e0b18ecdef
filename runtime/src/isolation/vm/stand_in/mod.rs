//! The processes of the host that stand for what runs in a guest: a container's, whose pid is the
//! one that its callers are given, and that of each process which was started in it later and
//! left alone.
//!
//! Whoever has such a pid looks for the container behind it: enters its namespaces, looks at its
//! root. So a stand-in is in namespaces that show the container and nothing else ([`view`]), and
//! has nothing of the host that could be taken from it: no right, no file, no word of its caller's
//! environment ([`confine`]). The container's is alone in a pid namespace, as its first process;
//! the sandbox process, which has much of the host, isn't in that namespace.

mod confine;
mod joined;
mod line;
mod process;
mod view;
mod words;

use std::io;

use nacre_agent::container::IdMapError;

pub(super) use confine::{close_inherited, keep_nothing_but};
pub(super) use joined::Joined;
pub(super) use line::Line;
pub(super) use process::{Kind, StandIn};
pub(super) use view::{Trees, View};
pub(super) use words::Words;

/// Why there is no stand-in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StandInError {
    #[error("can't {step}, for the process that stands for the container")]
    Step {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Ids(#[from] IdMapError),
    #[error("can't show {what} to the process that stands for the container")]
    View {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("the process that stands for the container can't {0}")]
    GaveUp(String),
    #[error("the process that stands for the container has ended")]
    Gone,
    #[error("the process that stands for the container doesn't answer")]
    Silent,
}

/// Names what went wrong.
fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> StandInError {
    move |source| StandInError::Step {
        step,
        source: source.into(),
    }
}
