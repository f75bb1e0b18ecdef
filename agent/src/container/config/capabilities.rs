//! Parses `process.capabilities`
//! ([capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html)).

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// A bit for each capability, by its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ProcessCapabilities {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

impl ProcessCapabilities {
    /// Returns the sets that the configuration asks for; empty ones if it has none.
    pub(crate) fn parse(asked_for: Option<&LinuxCapabilities>) -> Self {
        let Some(sets) = asked_for else {
            return ProcessCapabilities::default();
        };
        let (permitted, inheritable) = (bits(sets.permitted()), bits(sets.inheritable()));
        ProcessCapabilities {
            bounding: bits(sets.bounding()),
            effective: bits(sets.effective()),
            permitted,
            inheritable,
            // The kernel allows no others in the ambient set. `runc spec` writes some, and runc
            // leaves them out, with a warning.
            ambient: bits(sets.ambient()) & permitted & inheritable,
        }
    }

    /// Returns the names of the capabilities that are asked for as ambient but can't be.
    pub(crate) fn ambient_without_base(asked_for: Option<&LinuxCapabilities>) -> Option<String> {
        let left_out = bits(asked_for?.ambient()) & !ProcessCapabilities::parse(asked_for).ambient;
        let each = (0..u64::BITS).map(|number| 1 << number);
        let names: Vec<String> = each.filter(|bit| left_out & bit != 0).map(name).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Returns the names of effective capabilities that aren't permitted: the kernel refuses them
    /// too, with a less clear error.
    pub(crate) fn effective_without_permitted(&self) -> Option<String> {
        let wrong = self.effective & !self.permitted;
        (wrong != 0).then(|| name(wrong))
    }
}

fn bits(set: &Option<Capabilities>) -> u64 {
    set.iter()
        .flatten()
        .filter_map(|c| caps::Capability::from_str(&format!("CAP_{c}")).ok())
        .fold(0, |bits, capability| bits | capability.bitmask())
}

/// Returns the name of the first capability in `bits`.
pub(crate) fn name(bits: u64) -> String {
    let number = bits.trailing_zeros();
    caps::all()
        .into_iter()
        .find(|c| u32::from(c.index()) == number)
        .map_or_else(|| format!("capability {number}"), |c| c.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(json: &str) -> ProcessCapabilities {
        ProcessCapabilities::parse(Some(&serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn every_capability_of_the_spec_has_its_number() {
        for capability in caps::all() {
            let name = capability.to_string();
            let sets = sets(&format!(r#"{{"bounding": ["{name}"]}}"#));
            assert_eq!(sets.bounding, capability.bitmask(), "{name}");
            assert_eq!(super::name(sets.bounding), name);
        }
    }

    #[test]
    fn ambient_ones_are_those_that_the_kernel_allows() {
        let sets = sets(
            r#"{"permitted": ["CAP_KILL", "CAP_CHOWN"], "inheritable": ["CAP_KILL"],
                "ambient": ["CAP_KILL", "CAP_CHOWN", "CAP_FOWNER"]}"#,
        );
        assert_eq!(sets.ambient, 1 << 5);
    }

    #[test]
    fn an_effective_one_must_be_permitted() {
        let wrong = sets(r#"{"permitted": ["CAP_KILL"], "effective": ["CAP_KILL", "CAP_CHOWN"]}"#);
        assert_eq!(wrong.effective_without_permitted().unwrap(), "CAP_CHOWN");
        let right = sets(r#"{"permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}"#);
        assert_eq!(right.effective_without_permitted(), None);
    }

    #[test]
    fn saying_nothing_means_none() {
        assert_eq!(
            ProcessCapabilities::parse(None),
            ProcessCapabilities::default()
        );
        assert_eq!(sets("{}"), ProcessCapabilities::default());
    }
}
