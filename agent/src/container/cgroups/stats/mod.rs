//! Reads what a cgroup's processes use.

mod files;
mod read;
mod v1;
mod v2;
