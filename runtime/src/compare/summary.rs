//! Figures of several runs, and whether they are worth a verdict.

use serde::Serialize;

/// How many runs a verdict needs.
const FEWEST: usize = 3;

/// By which part of the median the runs may spread, from the least to the most.
const NOISY: f64 = 0.5;

/// A figure, measured in several runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// In the order of the runs.
    pub(super) runs: Vec<f64>,
}

/// A figure in one mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Measured {
    Value(Summary),
    /// It couldn't be measured, for this reason.
    Missing(String),
}

impl Summary {
    fn new(runs: Vec<f64>) -> Option<Self> {
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0,
            _ => *sorted.get(middle)?,
        };
        Some(Self {
            median,
            min: *sorted.first()?,
            max: *sorted.last()?,
            runs,
        })
    }

    /// Returns the distance of the least and the most, as a part of the median.
    pub(super) fn spread(&self) -> f64 {
        if self.median > 0.0 {
            (self.max - self.min) / self.median
        } else {
            0.0
        }
    }

    /// Returns why no verdict should be made of it.
    fn doubt(&self) -> Option<String> {
        if self.runs.len() < FEWEST {
            return Some(format!("fewer than {FEWEST} runs are too few"));
        }
        let percent = self.spread() * 100.0;
        (self.spread() > NOISY)
            .then(|| format!("its runs spread by {percent:.0} % of their median"))
    }
}

impl Measured {
    /// Sums up the runs, if it could be measured in each.
    pub(super) fn new(runs: impl IntoIterator<Item = Option<f64>>, missing: &str) -> Self {
        let runs: Option<Vec<f64>> = runs.into_iter().collect();
        match runs.and_then(Summary::new) {
            Some(summary) => Self::Value(summary),
            None => Self::Missing(missing.to_owned()),
        }
    }

    pub(super) fn value(&self) -> Option<&Summary> {
        match self {
            Self::Value(summary) => Some(summary),
            Self::Missing(_) => None,
        }
    }
}

/// Returns by how much the second figure is larger than the first.
///
/// # Errors
///
/// Returns why that can't be said.
pub(super) fn ratio(of: &Measured, to: &Measured) -> Result<f64, String> {
    let (Some(of), Some(to)) = (of.value(), to.value()) else {
        return Err("not measured in both modes".into());
    };
    for (mode, summary) in [("process", of), ("vm", to)] {
        if let Some(doubt) = summary.doubt() {
            return Err(format!("with --isolation={mode}, {doubt}"));
        }
    }
    if of.median > 0.0 {
        Ok(to.median / of.median)
    } else if to.median == 0.0 {
        Ok(1.0)
    } else {
        Err("nothing to compare with".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(runs: &[f64]) -> Measured {
        Measured::new(runs.iter().copied().map(Some), "none")
    }

    #[test]
    fn the_median_is_in_the_middle() {
        for (runs, median) in [
            (&[3.0, 1.0, 2.0][..], 2.0),
            (&[4.0, 1.0, 2.0, 3.0], 2.5),
            (&[7.0], 7.0),
        ] {
            let measured = measured(runs);
            let summary = measured.value().unwrap();
            assert_eq!((summary.median, summary.runs.as_slice()), (median, runs));
        }
        assert_eq!(measured(&[]), Measured::Missing("none".into()));
        let some = Measured::new([Some(1.0), None], "not in every run");
        assert_eq!(some, Measured::Missing("not in every run".into()));
    }

    #[test]
    fn a_verdict_needs_quiet_runs() {
        let quiet = measured(&[1.0, 1.1, 0.9]);
        assert_eq!(ratio(&quiet, &measured(&[2.0, 2.1, 2.0])), Ok(2.0));
        for (other, doubt) in [
            (measured(&[1.0, 2.0, 1.5]), "spread by 67 %"),
            (measured(&[1.0, 1.0]), "fewer than 3 runs"),
            (measured(&[]), "not measured"),
        ] {
            assert!(ratio(&quiet, &other).unwrap_err().contains(doubt));
            assert!(ratio(&other, &quiet).unwrap_err().contains(doubt));
        }
        let nothing = measured(&[0.0; 3]);
        assert!(ratio(&nothing, &quiet).is_err());
        assert_eq!(ratio(&nothing, &nothing), Ok(1.0));
    }
}
