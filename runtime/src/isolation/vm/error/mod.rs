//! Why a container can't be run in a VM, and how it ended.

mod client;
mod disk;
mod session;
mod share;
mod update;
mod vm;

pub(super) use client::ClientError;
pub(super) use disk::{DiskError, MKE2FS};
pub(super) use session::SessionError;
pub(super) use share::{ShareError, share_failed};
pub(super) use update::UpdateError;
pub(super) use vm::{SANDBOX, filtered_call};
pub(crate) use vm::{VmError, failure};
