//! The file system device (virtio 1.3, section 5.11): the guest mounts a directory of the host. The
//! file system itself is virtiofsd's, used as a library; here are the device, its thread and the
//! door through which requests come. A machine's files are served by a process of their own, a
//! [`FileServer`], in which that device is.
//!
//! *Containment.* The thread has its own root directory, working directory and file mode mask, and
//! its root is the exported directory: no name that a guest makes up, including `..` and symbolic
//! links, leads out of it. Bind mounts below it belong to it. Files are created with the user, the
//! group and the mode that the guest gives; whether that user may do so is for the guest to decide,
//! within what a [`Policy`] leaves it.
//!
//! *Sharing.* The host and other guests may change the tree at any time. The guest caches names and
//! attributes for [`CACHE_TIME`], and content until its size or times change or, at the latest,
//! until a changed file is opened again. What the guest writes is in the host's file when `write`
//! returns. Locks are the guest's own: the host doesn't see them.
//!
//! What a guest can make the host allocate: 2 MiB for a request and its answer, one at a time; 2
//! MiB for what is kept between requests; and one file descriptor and some 300 bytes for each file
//! that it knows or has open, limited to what it is given, to [`MAX_GUEST_FILES`] and to what
//! `RLIMIT_NOFILE` leaves room for. Beyond that it gets `ENFILE`; before that, whoever made the
//! device gets an alarm, and can make the guest forget files.
//!
//! A request is always completed: [`reset`](super::VirtioDevice::reset) waits for it, as long as the host's file
//! system takes.

mod attributes;
mod crowd;
mod device;
mod devtmpfs;
mod export;
mod file_server;
mod filter;
mod guard;
mod listing;
mod mount_id;
mod orders;
mod policy;
#[cfg(test)]
mod policy_tests;
mod process;
mod request;
mod served;
#[cfg(test)]
mod served_tests;
#[cfg(test)]
mod tests;
mod thread;

pub use device::{CACHE_TIME, Fs, MAX_GUEST_FILES, MAX_TAG};
pub use file_server::{FileServer, FileServerError};
pub use policy::{Ids, MountFlags, Policy, Rights};
pub use process::FileShare;
pub use served::{SERVED, not_served};
pub use thread::Reach;
