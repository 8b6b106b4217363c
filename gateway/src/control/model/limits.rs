//! Limits of destinations, and of a tenant's deliveries.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Faults;
use crate::config::units;
use crate::dispatch::circuit::Breaker;
use crate::dispatch::rate::Rate;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When nothing is attempted for a while, because attempts fail. What is for the destination waits in the store meanwhile, without an attempt,
/// and one delivery at a time tries it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitBreakerSpec {
    /// Whether there is one. Default true.
    pub enabled: bool,
    /// So many failures in a row open it, at most 100000; 0 for any number. Default 20.
    pub failures: u32,
    /// Such a share of failures among the attempts of the window opens it, percent; 0 for any. Default 80.
    #[schema(maximum = 100)]
    pub percent: u8,
    /// Attempts in the window before the share counts. Default 50.
    pub min_attempts: u32,
    /// The window, from 1 s to 1 hour. Default 1 minute.
    #[serde(with = "units::duration")]
    #[schema(value_type = String, example = "1m")]
    pub window: Duration,
    /// How long it is open at first, from 100 ms to 1 day; twice as long after each probe that fails. Default 5 s.
    #[serde(with = "units::duration")]
    #[schema(value_type = String, example = "5s")]
    pub pause: Duration,
    /// How long it is open at most, up to 1 day. Default 10 minutes.
    #[serde(with = "units::duration")]
    #[schema(value_type = String, example = "10m")]
    pub max_pause: Duration,
    /// Probes that have to succeed before it closes, from 1 to 100: one, then the others. Default 3.
    #[schema(minimum = 1, maximum = 100)]
    pub probes: u32,
    /// A destination of which every attempt failed for so long is disabled, from 1 hour to 365 days; 0 for never. Default 5 days.
    #[serde(with = "units::duration")]
    #[schema(value_type = String, example = "5days")]
    pub disable_after: Duration,
}

impl Default for CircuitBreakerSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            failures: 20,
            percent: 80,
            min_attempts: 50,
            window: Duration::from_secs(60),
            pause: Duration::from_secs(5),
            max_pause: Duration::from_secs(600),
            probes: 3,
            disable_after: 5 * DAY,
        }
    }
}

impl CircuitBreakerSpec {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks it, as what stands in `field`, and makes it ready for use; none if it is switched off.
    pub(super) fn prepare(&self, field: &str, timeout: Duration, faults: &mut Faults) -> Option<Breaker> {
        let name = |name: &str| format!("{field}.{name}");
        faults.range(&name("failures"), self.failures, 0, 100_000);
        faults.range(&name("percent"), self.percent, 0, 100);
        faults.range(&name("min_attempts"), self.min_attempts, 1, 1_000_000);
        faults.time(&name("window"), self.window, Duration::from_secs(1), Duration::from_secs(3600));
        faults.time(&name("pause"), self.pause, Duration::from_millis(100), DAY);
        faults.time(&name("max_pause"), self.max_pause, self.pause, DAY.max(self.pause));
        faults.range(&name("probes"), self.probes, 1, 100);
        if !self.disable_after.is_zero() {
            faults.time(&name("disable_after"), self.disable_after, Duration::from_secs(3600), 365 * DAY);
        }
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.enabled.then(|| Breaker {
            failures: self.failures,
            percent: self.percent,
            min_attempts: self.min_attempts,
            window_ms: millis(self.window),
            pause_ms: millis(self.pause),
            max_pause_ms: millis(self.max_pause),
            probes: self.probes,
            disable_after_ms: (!self.disable_after.is_zero()).then(|| millis(self.disable_after)),
            timeout_ms: millis(timeout),
        })
    }
}

pub(super) fn check_rate(field: &str, rate: Option<Rate>, faults: &mut Faults) {
    if let Some(rate) = rate {
        faults.range(&format!("{field}.limit"), rate.limit, 1, Rate::MAX);
    }
}
