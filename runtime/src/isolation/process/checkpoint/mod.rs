//! `nacre checkpoint` and `nacre restore`, which call CRIU (<https://criu.org>) by its command
//! line.

mod criu;
mod dump;
mod restore;
mod streams;

pub(crate) use dump::checkpoint;
pub(crate) use restore::restore;
