//! Version 2: one hierarchy, in which controllers are enabled level by level.

pub(super) mod bpf;
pub(super) mod cpu;
pub(super) mod devices;
mod hierarchy;
pub(super) mod hugetlb;
pub(super) mod io;
pub(super) mod memory;
pub(super) mod unified;

pub(super) use hierarchy::{adopt, make, oom_kills, with_controllers, with_present};
