//! The schedule that a retry policy gives: of a destination, of a connection, or of one that is only being thought of.

use super::model::{Connections, Destinations, Faults, RetrySpec};
use super::service::{Control, Error};
use crate::dispatch::schedule::Due;
use crate::event::TenantId;

impl Control {
    /// Of a destination's own policy.
    pub fn destination_schedule(&self, owner: TenantId, reference: &str) -> Result<Vec<Due>, Error> {
        Ok(self.get::<Destinations>(owner, reference)?.parts.retry.timetable())
    }

    /// Of the policy that holds for a connection: its own, or else its destination's.
    pub fn connection_schedule(&self, owner: TenantId, reference: &str) -> Result<Vec<Due>, Error> {
        let connection = self.get::<Connections>(owner, reference)?;
        match &connection.parts.retry {
            Some(own) => Ok(own.timetable()),
            None => self.destination_schedule(owner, &connection.parts.destination),
        }
    }
}

/// Of a policy that nobody has.
pub fn draft_schedule(spec: &RetrySpec) -> Result<Vec<Due>, Error> {
    let mut faults = Faults::default();
    let policy = spec.prepare("", &mut faults);
    for fault in &mut faults.0 {
        fault.field = fault.field.trim_start_matches('.').to_owned();
    }
    Ok(faults.or(policy).map_err(Error::Invalid)?.timetable())
}
