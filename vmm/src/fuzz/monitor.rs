//! What a monitor that was taken over says to the process that made it.

use crate::monitor::fuzz;

/// What such a monitor answers.
pub fn monitor(said: &[u8]) {
    fuzz::says(said);
}
