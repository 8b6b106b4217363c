//! Events that somebody sent again by hand, as tests.
//!
//! Noted as the last of an event's pins, for a connection that is none: releases that know nothing of it read past it, and take the event for one
//! that came in.

use super::{ConnectionId, Event, Pin, VersionHash};

/// No connection has this id: ids carry the time at which they were made.
const NOBODY: ConnectionId = ConnectionId(0);

impl Event {
    /// Notes that it was sent again as a test, over this connection alone if there is one.
    pub fn sent_again(mut self, over: Option<ConnectionId>) -> Self {
        let mut note = [0; 32];
        note[..16].copy_from_slice(&over.unwrap_or(NOBODY).0.to_be_bytes());
        self.pins.push(Pin { connection: NOBODY, versions: vec![VersionHash(note)] });
        self
    }

    /// Whether it was sent again as a test.
    pub fn is_test(&self) -> bool {
        self.note().is_some()
    }

    /// The one connection that it goes over; none for all of its source.
    pub fn only(&self) -> Option<ConnectionId> {
        let note = self.note()?.0;
        let id = u128::from_be_bytes(*note.first_chunk()?);
        Some(ConnectionId(id)).filter(|id| *id != NOBODY)
    }

    /// Whether a connection of its source gets it.
    pub fn goes_over(&self, connection: ConnectionId) -> bool {
        self.only().is_none_or(|only| only == connection)
    }

    fn note(&self) -> Option<&VersionHash> {
        self.pins.last().filter(|pin| pin.connection == NOBODY)?.versions.first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::{EventId, Request, Revision, SourceId, TenantId, decode_event, encode_event};

    #[test]
    fn what_is_noted_is_stored_with_the_event() {
        let pins = vec![Pin { connection: ConnectionId(7), versions: Vec::new() }];
        let (id, tenant, source, revision, accepted_at) = (EventId(1), TenantId(2), SourceId(3), Revision(4), Timestamp(5));
        let event = Event { id, tenant, source, revision, accepted_at, request: Request::default(), pins, trace: None };
        assert_eq!((event.is_test(), event.only(), event.goes_over(ConnectionId(8))), (false, None, true));
        for (over, others) in [(None, true), (Some(ConnectionId(7)), false)] {
            let again = event.clone().sent_again(over);
            let again = decode_event(&encode_event(&again).into()).expect("reads its own format");
            assert_eq!((again.is_test(), again.only()), (true, over));
            assert_eq!((again.goes_over(ConnectionId(7)), again.goes_over(ConnectionId(8))), (true, others));
            assert_eq!(again.pins[0], event.pins[0]);
        }
    }
}
