//! Finds fields that ask for something.

use super::error::ConfigError;

/// Refuses the first field that asks for something.
pub(super) fn refuse<const N: usize>(fields: [(&str, bool); N]) -> Result<(), ConfigError> {
    match fields.iter().find(|(_, asks)| *asks) {
        Some((field, _)) => Err(ConfigError::unsupported(*field)),
        None => Ok(()),
    }
}

/// Refuses the first field that asks for something, where all are for other operating systems.
pub(super) fn elsewhere<const N: usize>(fields: [(&str, bool); N]) -> Result<(), ConfigError> {
    match fields.iter().find(|(_, asks)| *asks) {
        Some((field, _)) => {
            let problem = "it is for containers of another operating system";
            Err(ConfigError::invalid(*field, problem))
        }
        None => Ok(()),
    }
}

pub(super) fn some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

pub(super) fn says(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}
