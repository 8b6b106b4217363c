use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Faults;
use crate::config::units;
use crate::dispatch::batch::{BatchFormat, Batching};

/// The most deliveries in one request.
const MAX_EVENTS: usize = 1000;
/// The least and the most that its body may be bounded to, in bytes.
const BYTES: (u64, u64) = (1 << 10, 16 << 20);
/// The longest that the first waits for others.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Several deliveries in one request, a `POST` to the destination's URL with the batch's own `webhook-id` and signature. It goes out once it is full,
/// and at the latest after `max_wait`. A delivery never shares one with those of another destination. Each ends as the answer says of it, or
/// else as the status says: see the README, "Several events in one request".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchSpec {
    /// How deliveries stand in the request's body.
    pub format: BatchFormat,
    /// Whether each stands in an object with its `id`, its event's id as `event`, `accepted_at`, `headers`, and its body as `data`, or as
    /// `data_base64` if that is not JSON. Without it each stands there as its body alone, which has to be JSON. Default false.
    #[serde(default)]
    pub envelope: bool,
    /// Deliveries in one request, 1 to 1000, and never more than half of the tenant's window (`plan.in_flight`). Default 100.
    #[serde(default = "default_events")]
    pub max_events: usize,
    /// Bytes of its body before compression, 1 KiB to 16 MiB; a delivery that is larger by itself goes alone. Default 1 MiB.
    #[serde(default = "default_bytes", with = "units::size")]
    #[schema(value_type = String, example = "1MiB")]
    pub max_bytes: u64,
    /// How long the first delivery waits for others, 1 ms to 30 s. Default 200 ms.
    #[serde(default = "default_wait", with = "units::duration")]
    #[schema(value_type = String, example = "200ms")]
    pub max_wait: Duration,
}

fn default_events() -> usize {
    100
}

fn default_bytes() -> u64 {
    1 << 20
}

fn default_wait() -> Duration {
    Duration::from_millis(200)
}

impl BatchSpec {
    pub(super) fn prepare(&self, field: &str, faults: &mut Faults) -> Batching {
        faults.range(&format!("{field}.max_events"), self.max_events, 1, MAX_EVENTS);
        faults.range(&format!("{field}.max_bytes"), self.max_bytes, BYTES.0, BYTES.1);
        faults.time(&format!("{field}.max_wait"), self.max_wait, Duration::from_millis(1), MAX_WAIT);
        if self.envelope && self.format == BatchFormat::Cloudevents {
            let problem = "is not for `\"format\": \"cloudevents\"`: a CloudEvent is an envelope itself";
            faults.add(format!("{field}.envelope"), problem);
        }
        Batching {
            format: self.format,
            envelope: self.envelope,
            max_events: self.max_events,
            max_bytes: usize::try_from(self.max_bytes).unwrap_or(usize::MAX),
            max_wait: self.max_wait,
        }
    }
}
