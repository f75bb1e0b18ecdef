//! How systemd is reached.

use std::error::Error;
use std::fmt::Debug;
use std::path::PathBuf;

use super::properties::Property;

/// systemd's manager of units: the system's, or a user's.
pub trait Units: Debug + Sync {
    /// Starts the transient scope `name`, with these properties, and waits until that is done.
    /// Returns its cgroup, from the hierarchy's root.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being started.
    fn start_scope(
        &self,
        name: &str,
        properties: &[Property],
    ) -> Result<PathBuf, Box<dyn Error + Send + Sync>>;

    /// Changes properties of a running unit.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being changed.
    fn set_properties(
        &self,
        name: &str,
        properties: &[Property],
    ) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Whether it is a user's manager, not the system's.
    fn is_users(&self) -> bool;
}
