//! `nacre doctor`: checks whether this host can run containers, and says what to do if it can't.

mod confinement;
mod finding;
mod host;
mod process;
mod report;
mod users;
mod vm;

pub(super) use report::doctor;
