//! `process.capabilities`: the five capability sets
//! ([capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html)).

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::container::config::capabilities::{ProcessCapabilities, name};
use crate::container::error::{InitError, Step, StepError};
use crate::container::fork::passage::Passage;

impl ProcessCapabilities {
    /// Limits the bounding set, while this process can still change it.
    pub(crate) fn limit_bounding(&self) -> Result<(), InitError> {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding & (1 << number) != 0 {
                // A capability that isn't in the set can't be added to it.
                if !capability_is_in_bounding_set(capability).unwrap_or(false) {
                    return Err(not_held(1 << number));
                }
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                // One past the kernel's last capability; the numbers have no gaps.
                Err(Errno::INVAL) if self.bounding >> number == 0 => break,
                Err(Errno::INVAL) => {}
                other => other.step(|| "limit the bounding set")?,
            }
        }
        Ok(())
    }

    /// Gives this process these sets, and those of `more` that it holds, until it
    /// [lets go](Self::let_go_of_more) of them.
    pub(crate) fn set(&self, more: CapabilitySet) -> Result<(), InitError> {
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

    /// Reduces this process, which may be under its filter already, to exactly these sets.
    pub(crate) fn let_go_of_more(&self, passage: &Passage) -> Result<(), StepError> {
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
}

fn not_held(bits: u64) -> InitError {
    InitError::CapabilityNotHeld { name: name(bits) }
}
