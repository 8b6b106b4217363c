//! The handshake of "HTTP 1.1 Web Hooks for Event Delivery" 1.0.2 (CloudEvents), by which a receiver agrees to be sent to:
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md>, section 4.

use std::sync::Arc;

use http::HeaderValue;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Faults;
use crate::control::snapshot::{Handshake, Permits};

/// Origins that a source may name.
const MAX_ORIGINS: usize = 32;
/// The highest rate, requests a minute.
const MAX_RATE: u32 = 1_000_000;
/// Bytes of an origin: those of a DNS name.
const MAX_ORIGIN: usize = 253;

/// Which senders a source agrees to be sent to by. They ask with `OPTIONS` and `WebHook-Request-Origin`; what they ask is answered and not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceHandshakeSpec {
    /// Senders, each by the DNS name that it gives as its origin; `*` for any.
    #[schema(example = json!(["eventemitter.example.com"]))]
    pub origins: Vec<String>,
    /// Requests a minute that they are told to be allowed; without it they are told that there is no limit. What holds is the tenant's plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub rate: Option<u32>,
}

/// How a destination is asked whether it agrees to be sent to. It is asked with `OPTIONS`, without credentials, when it is made, when its URL or
/// this changes, and when it is enabled by `POST /v1/destinations/{destination}/enable`; until it agrees its deliveries wait. The rate that it
/// allows holds beside its own `rate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DestinationHandshakeSpec {
    /// The DNS name that stands for the sender: `WebHook-Request-Origin`, of each delivery too.
    #[schema(example = "hooks.example.com")]
    pub origin: String,
    /// Requests a minute that are asked for: `WebHook-Request-Rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub rate: Option<u32>,
}

impl SourceHandshakeSpec {
    pub(super) fn prepare(&self, field: &str, faults: &mut Faults) -> Arc<Permits> {
        if !(1..=MAX_ORIGINS).contains(&self.origins.len()) {
            faults.add(format!("{field}.origins"), format!("must name 1 to {MAX_ORIGINS} origins, or be [\"*\"] for any"));
        }
        for (index, origin) in self.origins.iter().enumerate().filter(|(_, origin)| *origin != "*") {
            check_origin(&format!("{field}.origins[{index}]"), origin, faults);
        }
        check_rate(field, self.rate, faults);
        Arc::new(Permits { origins: self.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect(), rate: self.rate })
    }
}

impl DestinationHandshakeSpec {
    /// For a destination with this URL.
    pub(super) fn prepare(&self, field: &str, url: &str, faults: &mut Faults) -> Option<Arc<Handshake>> {
        check_origin(&format!("{field}.origin"), &self.origin, faults);
        check_rate(field, self.rate, faults);
        let asked = format!("{url}\n{}\n{}", self.origin, self.rate.unwrap_or_default());
        let asked = hex::encode(&digest(&SHA256, asked.as_bytes()).as_ref()[..16]);
        let origin = HeaderValue::from_str(&self.origin).ok()?;
        Some(Arc::new(Handshake { origin, rate: self.rate, asked }))
    }
}

fn check_origin(field: &str, origin: &str, faults: &mut Faults) {
    let is_label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(plain)
    };
    if origin.len() > MAX_ORIGIN || !origin.split('.').all(is_label) {
        faults.add(field, "must be a DNS name, like \"hooks.example.com\": no scheme, port or path");
    }
}

fn check_rate(field: &str, rate: Option<u32>, faults: &mut Faults) {
    if let Some(rate) = rate {
        faults.range(&format!("{field}.rate"), rate, 1, MAX_RATE);
    }
}
