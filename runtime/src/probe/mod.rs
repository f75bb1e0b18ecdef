//! Looks from inside a container at what its processes can reach of the kernel they run on: by
//! trying, and not by what anything says of itself. `nacre compare` runs it in place of the workload.

mod files;
mod process;
mod system_calls;

use serde::{Deserialize, Serialize};

pub(crate) use files::Reached;
pub(crate) use process::{OwnProcess, kernel, namespaces, release};
pub(crate) use system_calls::Calls;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) process: OwnProcess,
    pub(crate) calls: Calls,
    pub(crate) proc: Reached,
    pub(crate) sys: Reached,
    pub(crate) devices: Vec<String>,
}

impl Probe {
    /// Looks at everything.
    ///
    /// # Safety
    ///
    /// This process must have a single thread, and nothing to lose: system calls are tried in copies
    /// of it.
    pub(crate) unsafe fn look() -> Self {
        Self {
            process: OwnProcess::look(),
            // Before the calls are tried, which may change what is seen.
            proc: Reached::below("/proc"),
            sys: Reached::below("/sys"),
            devices: files::devices(),
            // SAFETY: the caller's promise.
            calls: unsafe { Calls::attempt() },
        }
    }
}
