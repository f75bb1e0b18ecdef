//! The sandbox process. It has the container's microVM booted by a monitor, relays the standard
//! streams that it inherited, and exits with the workload's exit status.

mod boot;
mod clients;
mod converse;
mod devices;
mod disk;
mod drain;
mod effort;
mod end;
mod executed;
mod file_policy;
mod holdings;
mod home;
mod inherited;
mod initramfs;
mod logs;
mod monitor;
mod notes;
mod oom;
mod prepare;
mod rights;
mod run;
mod service;
mod session;
mod share;
mod silence;
mod watchdog;

#[cfg(fuzzing)]
pub(super) use logs::read as read_logs;
pub(super) use run::main;
