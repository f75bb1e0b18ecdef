//! A container's life: its creation, its start, further processes in it, and its end.

pub(crate) mod container;
pub(crate) mod create;
pub(crate) mod create_error;
pub(crate) mod exec;
pub(crate) mod executable;
pub(crate) mod executed;
pub(crate) mod gate;
pub(crate) mod init;
pub(crate) mod joined_proc;
pub(crate) mod options;
pub(crate) mod ready;
