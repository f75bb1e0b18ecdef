//! A container's `config.json` as its guest gets it: names of things of the host are replaced by
//! the guest's names for them, or refused.

mod bind_source;
mod checks;
pub(super) mod cpus;
mod devices;
mod error;
pub(super) mod file_systems;
mod hooks;
mod mount_options;
mod overlay_source;
pub(super) mod security_modules;
mod shared;
mod source;
mod source_error;
mod translate;

pub(super) use checks::check_resources;
pub(crate) use error::GuestSpecError;
pub(super) use security_modules::SecurityModuleError;
pub(super) use shared::Shared;
pub(super) use source::{Origin, Source};
pub(super) use translate::{Guest, translate};
