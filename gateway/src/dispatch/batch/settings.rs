//! What a destination's batches are like. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Several deliveries in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batching {
    /// How they stand in its body.
    pub format: BatchFormat,
    /// Whether each stands in an envelope that tells its ids and headers.
    pub envelope: bool,
    /// Deliveries in one request.
    pub max_events: usize,
    /// Bytes of its body; a delivery that is larger by itself goes alone.
    pub max_bytes: usize,
    /// How long the first of them waits for others.
    pub max_wait: Duration,
}

/// How deliveries stand in the body of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchFormat {
    /// An array, `application/json`.
    JsonArray,
    /// One to a line, `application/x-ndjson`.
    Ndjson,
    /// The batch of CloudEvents, `application/cloudevents-batch+json`, of deliveries that are CloudEvents in structured mode.
    Cloudevents,
}

impl BatchFormat {
    /// The body's type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::JsonArray => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Cloudevents => "application/cloudevents-batch+json",
        }
    }
}

impl Batching {
    /// Deliveries in hand at once where so many requests may be under way: as many as these hold, and at most half of the tenant's window, so that a
    /// destination that hangs leaves room for its tenant's others.
    pub fn window(&self, requests: usize, tenant: usize) -> usize {
        requests.saturating_mul(self.max_events).min(tenant / 2).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_what_the_requests_hold_within_half_of_the_tenants() {
        let batching = |max_events| {
            let (format, max_wait) = (BatchFormat::JsonArray, Duration::ZERO);
            Batching { format, envelope: false, max_events, max_bytes: 1, max_wait }
        };
        assert_eq!(batching(10).window(4, 512), 40);
        assert_eq!(batching(100).window(64, 512), 256);
        assert_eq!(batching(100).window(1, 1), 1);
    }
}
