//! The error of a step, which is most often one call to the kernel.

use std::borrow::Cow;
use std::io;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("can't {step}")]
pub struct StepError {
    step: Cow<'static, str>,
    source: io::Error,
}

impl StepError {
    /// Returns the error of a step.
    pub fn new(step: impl Into<Cow<'static, str>>, source: impl Into<io::Error>) -> Self {
        StepError {
            step: step.into(),
            source: source.into(),
        }
    }
}

/// Names the step that a call belongs to.
pub trait Step<T> {
    /// Turns an error into "can't `step`".
    ///
    /// # Errors
    ///
    /// The error of the call, with the step.
    fn step<S: Into<Cow<'static, str>>>(self, step: impl FnOnce() -> S) -> Result<T, StepError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step<S: Into<Cow<'static, str>>>(self, step: impl FnOnce() -> S) -> Result<T, StepError> {
        self.map_err(|source| StepError::new(step(), source))
    }
}
