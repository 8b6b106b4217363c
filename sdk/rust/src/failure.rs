//! Saying why a plugin could not decide.

pub use crate::glue::filter::tidegate::plugin::types::Failure;

use crate::Retry;

impl Failure {
    /// A failure that the same input gives again. `code` is for machines (`bad-payload`), `message` for people.
    pub fn never(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retry: Retry::Never }
    }

    /// A failure that a later try may not meet.
    pub fn later(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retry: Retry::Later }
    }
}
