//! `regex-lite` under the name of `regex`, by way of `[patch.crates-io]`.
//!
//! oci-spec checks one field, `execCPUAffinity`, with a regular expression, and with it comes
//! an engine of 900 KiB into the agent, which every guest unpacks at every boot. This one, by
//! the same authors and with the same interface, is a tenth of that.

pub use regex_lite::*;
