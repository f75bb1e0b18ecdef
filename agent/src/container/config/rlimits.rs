//! Checks `process.rlimits`.

use oci_spec::runtime::PosixRlimit;

use super::error::ConfigError;

/// Checks what needs no kernel: one limit per kind, and no soft limit above its hard one.
pub(crate) fn validate(rlimits: &[PosixRlimit]) -> Result<(), ConfigError> {
    for (index, limit) in rlimits.iter().enumerate() {
        let field = format!("process.rlimits[{index}]");
        if rlimits.iter().take(index).any(|l| l.typ() == limit.typ()) {
            return Err(ConfigError::invalid(
                field,
                format!("there are two of {}", limit.typ()),
            ));
        }
        if limit.soft() > limit.hard() {
            return Err(ConfigError::invalid(
                field,
                format!(
                    "the soft limit {} of {} is over the hard limit {}",
                    limit.soft(),
                    limit.typ(),
                    limit.hard()
                ),
            ));
        }
    }
    Ok(())
}
