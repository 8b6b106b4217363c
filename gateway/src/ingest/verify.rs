//! Verifies a request; the only maker of a [`VerifiedEvent`].

use crate::event::Event;

/// An event whose request passed its source's verification.
#[derive(Debug)]
pub struct VerifiedEvent(Event);

impl VerifiedEvent {
    /// Skips verification, for tests of what comes after it. Not in production builds.
    #[doc(hidden)]
    #[cfg(any(test, feature = "test-support"))]
    pub fn unverified_for_tests(event: Event) -> Self {
        Self(event)
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.0
    }
}
