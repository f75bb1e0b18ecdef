//! The container engine.

pub mod cgroups;
