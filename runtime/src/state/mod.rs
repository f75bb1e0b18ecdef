//! What is known of containers between commands: one folder per container in `--root`.

mod error;
mod folder;
pub(crate) mod record;
mod status;
mod store;

pub(crate) use error::StateError;
pub(crate) use folder::{Claim, Folder, SOCKET};
pub(crate) use record::{By, Record};
pub(crate) use status::Status;
pub(crate) use store::{Seen, Store};
