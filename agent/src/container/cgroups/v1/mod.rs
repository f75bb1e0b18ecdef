//! Version 1: hierarchies of one or more controllers, each mounted separately.

pub(super) mod blkio;
pub(super) mod cpu;
mod cpuset;
pub(super) mod devices;
pub(super) mod hierarchy;
pub(super) mod hugetlb;
pub(super) mod memory;
pub(super) mod network;

pub(super) use hierarchy::{Hierarchy, Member, oom_kills, with_directories};
