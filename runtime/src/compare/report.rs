//! What a comparison came to; as JSON, docs/compare.md describes it.

use serde::Serialize;

use crate::text::Unit;

use super::summary::{Measured, Summary, ratio};

/// The version of the JSON document.
pub(super) const VERSION: u32 = 1;

/// The whole result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: u32,
    pub(super) nacre: &'static str,
    pub(super) bundle: String,
    pub(super) arguments: serde_json::Value,
    pub(super) runs: u16,
    pub(super) host: Host,
    /// What a reader has to know about how the workload was run.
    pub(super) notes: Vec<String>,
    pub(super) cost: Vec<Figure>,
    pub(super) wall: Result<Wall, String>,
    pub(super) same: Vec<Likeness>,
}

/// What stands between the workload and the host.
#[derive(Debug, Serialize)]
pub(super) struct Wall {
    pub(super) lines: Vec<WallLine>,
    /// What the configuration asks for, and who enforces it.
    pub(super) enforced: Vec<Enforced>,
    /// What an attack on the host's own kernel would meet.
    pub(super) host: Vec<Fact>,
}

/// What was found of one thing, in both modes.
#[derive(Debug, Serialize)]
pub(super) struct WallLine {
    pub(super) key: &'static str,
    pub(super) name: &'static str,
    pub(super) process: String,
    pub(super) vm: String,
    /// What that means for who has to choose.
    pub(super) worth: &'static str,
}

/// A field of `config.json`, and who enforces it.
#[derive(Debug, Serialize)]
pub(super) struct Enforced {
    pub(super) field: String,
    pub(super) what: &'static str,
    pub(super) process: &'static str,
    pub(super) vm: &'static str,
}

/// What the host is like.
#[derive(Debug, Serialize)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: String,
}

impl Fact {
    pub(super) fn new(name: &'static str, value: String) -> Self {
        Self { name, value }
    }
}

/// The machine.
#[derive(Debug, Serialize)]
pub(super) struct Host {
    /// Its kernel's release.
    pub(super) kernel: String,
    pub(super) cpus: usize,
    /// How many processes ran or waited to, on average in the minute before.
    pub(super) load: Option<f64>,
}

/// A figure in both modes.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    /// Its name for programs, which never changes.
    pub(super) key: &'static str,
    /// Its name for people.
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) process: Measured,
    pub(super) vm: Measured,
    /// The VM's median as a multiple of the other, unless the figures don't allow a verdict.
    pub(super) ratio: Option<f64>,
    /// Why there is no ratio.
    pub(super) doubt: Option<String>,
}

impl Figure {
    pub(super) fn new(
        key: &'static str,
        name: &'static str,
        unit: Unit,
        process: Measured,
        vm: Measured,
    ) -> Self {
        let (ratio, doubt) = match ratio(&process, &vm) {
            Ok(ratio) => (Some(ratio), None),
            Err(doubt) => (None, Some(doubt)),
        };
        Self {
            key,
            name,
            unit,
            process,
            vm,
            ratio,
            doubt,
        }
    }

    /// Returns what was measured, process mode first, if it could be in both.
    pub(super) fn pair(&self) -> Option<[&Summary; 2]> {
        Some([self.process.value()?, self.vm.value()?])
    }

    /// Returns why there is no verdict, although it was measured.
    pub(super) fn withheld(&self) -> Option<&str> {
        self.pair().and(self.doubt.as_deref())
    }

    /// Takes the ratio back, for this reason.
    pub(super) fn without_verdict(self, doubt: &str) -> Self {
        Self {
            ratio: None,
            doubt: Some(doubt.to_owned()),
            ..self
        }
    }
}

/// Whether something came out the same in both modes.
#[derive(Debug, Serialize)]
pub(super) struct Likeness {
    pub(super) key: &'static str,
    pub(super) name: &'static str,
    pub(super) is: Verdict,
    /// What it was, or what differed.
    pub(super) details: Vec<String>,
}

/// Whether it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Same,
    Different,
    /// It differs from run to run in one and the same mode.
    Varies,
}
