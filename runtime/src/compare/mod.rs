//! `nacre compare`: runs a workload in both modes and shows what that costs, and whether it does the
//! same. It runs this program's own commands, as an engine would.

mod boot;
mod changes;
mod comparison;
mod counters;
mod enforced;
mod error;
mod figures;
mod host_kernel;
mod interrupt;
mod likeness;
mod output;
mod page;
mod program;
mod report;
mod sample;
mod setting;
mod summary;
mod table;
mod trial;
mod wall;
mod workload;
mod workspace;

pub(crate) use boot::{Boot, boot};
pub(crate) use comparison::Comparison;
pub(crate) use error::CompareError;
pub(crate) use setting::Subject;

/// The result, for a person and for a program.
pub(crate) struct Compared {
    pub(crate) text: String,
    /// A page of HTML.
    pub(crate) page: String,
    pub(crate) document: serde_json::Value,
}

/// Compares.
///
/// # Errors
///
/// If a mode can't run the workload, or a signal came.
///
/// # Safety
///
/// This process must have a single thread.
pub(crate) unsafe fn compare(comparison: &Comparison) -> Result<Compared, CompareError> {
    // SAFETY: the caller's promise.
    let report = unsafe { comparison.run() }?;
    Ok(Compared {
        text: table::text(&report),
        page: page::page(&report),
        document: serde_json::json!(report),
    })
}
