//! Verifies a request; the only maker of a [`VerifiedEvent`].

use crate::event::Event;

/// An event whose request passed its source's verification.
#[derive(Debug)]
pub struct VerifiedEvent(Event);

impl VerifiedEvent {
    /// The event.
    pub fn event(&self) -> &Event {
        &self.0
    }
}
