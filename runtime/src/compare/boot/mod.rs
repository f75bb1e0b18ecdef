//! `nacre boot`: watches a start, and tells its phases.

mod kernel;
mod phases;
mod text;
mod timeline;
mod watch;

pub(crate) use watch::{Boot, boot};
