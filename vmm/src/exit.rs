//! How a machine ended.

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered it off, through the exit port.
    PowerOff,
    /// The guest reset it. A guest that can't power off ends this way.
    Reset,
    /// [`RunningVm::stop`](crate::RunningVm::stop) ended it.
    Stopped,
}
