//! The host processes that stand for what runs in a guest: one for the container, whose pid is what
//! its callers are given, and one for each process that was started in it later and detached.

mod confine;
mod error;
mod joined;
mod line;
mod process;
mod view;
mod words;

pub(super) use confine::{close_inherited, keep_nothing_but, open_descriptors};
pub(super) use error::StandInError;
pub(super) use joined::Joined;
pub(super) use line::Line;
pub(super) use process::{Role, StandIn};
pub(super) use view::{Trees, View};
pub(super) use words::Words;
