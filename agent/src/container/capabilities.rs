//! `process.capabilities`: the five sets
//! ([capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html)).

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use super::error::{InitError, Step};
use super::passage::Passage;

/// A bit for each capability, by its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    /// What the configuration asks for; nothing, if it says nothing.
    pub(super) fn of(asked_for: Option<&LinuxCapabilities>) -> Self {
        let Some(sets) = asked_for else {
            return Sets::default();
        };
        let (permitted, inheritable) = (bits(sets.permitted()), bits(sets.inheritable()));
        Sets {
            bounding: bits(sets.bounding()),
            effective: bits(sets.effective()),
            permitted,
            inheritable,
            // The kernel allows no others in it. `runc spec` writes some, and runc leaves them
            // out.
            ambient: bits(sets.ambient()) & permitted & inheritable,
        }
    }

    /// While this process can still change it: limits the bounding set.
    pub(super) fn limit_bounding(&self) -> Result<(), InitError> {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding & (1 << number) != 0 {
                // What isn't in it can't be put there.
                if !capability_is_in_bounding_set(capability).unwrap_or(false) {
                    return Err(not_held(1 << number));
                }
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                // One more than the kernel has, and there are no gaps.
                Err(Errno::INVAL) if self.bounding >> number == 0 => break,
                Err(Errno::INVAL) => {}
                other => other.step(|| "limit the bounding set")?,
            }
        }
        Ok(())
    }

    /// Gives this process these sets, and of `more` what it has, until it
    /// [lets go](Self::let_go_of_more) of that.
    pub(super) fn set(&self, more: CapabilitySet) -> Result<(), InitError> {
        let held = capabilities(None)
            .step(|| "read the capabilities")?
            .permitted;
        let lacking = (self.permitted | self.effective) & !held.bits();
        if lacking != 0 {
            return Err(not_held(lacking));
        }
        let more = more & held;
        let mut sets = self.of_thread();
        sets.effective |= more;
        sets.permitted |= more;
        set_capabilities(None, sets).step(|| "set the capabilities")?;
        clear_ambient_capability_set().step(|| "clear the ambient capabilities")?;
        for number in 0..u64::BITS {
            if self.ambient & (1 << number) != 0 {
                let capability = CapabilitySet::from_bits_retain(1 << number);
                configure_capability_in_ambient_set(capability, true)
                    .step(|| format!("set the ambient capability {}", name(1 << number)))?;
            }
        }
        Ok(())
    }

    /// Leaves this process, which may be below its filter, these sets and no others.
    pub(super) fn let_go_of_more(&self, passage: &Passage) -> Result<(), InitError> {
        let set = passage.set_capabilities(self.of_thread());
        set.step(|| "let go of capabilities")
    }

    fn of_thread(&self) -> CapabilitySets {
        CapabilitySets {
            effective: CapabilitySet::from_bits_retain(self.effective),
            permitted: CapabilitySet::from_bits_retain(self.permitted),
            inheritable: CapabilitySet::from_bits_retain(self.inheritable),
        }
    }

    /// Effective ones must be permitted: the kernel wants it so, with a less clear error.
    pub(super) fn effective_without_permitted(&self) -> Option<String> {
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

/// The name of the first capability in `bits`.
fn name(bits: u64) -> String {
    let number = bits.trailing_zeros();
    caps::all()
        .into_iter()
        .find(|c| u32::from(c.index()) == number)
        .map_or_else(|| format!("capability {number}"), |c| c.to_string())
}

fn not_held(bits: u64) -> InitError {
    InitError::CapabilityNotHeld { name: name(bits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(json: &str) -> Sets {
        Sets::of(Some(&serde_json::from_str(json).unwrap()))
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
        assert_eq!(Sets::of(None), Sets::default());
        assert_eq!(sets("{}"), Sets::default());
    }
}
