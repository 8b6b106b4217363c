//! Asks destinations whether they agree to be sent to: the validation request of "HTTP 1.1 Web Hooks for Event Delivery" 1.0.2, section 4.
//!
//! The owner of the tenant's home shard asks, with one `OPTIONS` request at a time for each destination: at once, and while the answer is no
//! (or none) after [`FIRST_PAUSE`] and then half as often each time, down to once in [`LAST_PAUSE`]. What the answer is becomes part of the
//! destination's record ([`Noticed`]), so that every node knows it and a restart asks nobody again. Until then the destination counts as
//! disabled, and its deliveries wait in its queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::clock::{Timestamp, monotonic};
use crate::control::condition::Noticed;
use crate::control::snapshot::{Destination, Handshake, Snapshot};
use crate::egress::{OutRequest, Sent};
use crate::event::{DestinationId, Request, Revision};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Pauses between two requests to a destination that did not agree.
pub const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest of them.
pub const LAST_PAUSE: Duration = Duration::from_secs(600);
/// How long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Destinations that are asked at once.
const AT_ONCE: usize = 16;

const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const REQUEST_RATE: HeaderName = HeaderName::from_static("webhook-request-rate");
const ALLOWED_ORIGIN: &str = "webhook-allowed-origin";
const ALLOWED_RATE: &str = "webhook-allowed-rate";

/// How often a destination was asked.
struct Asked {
    what: Arc<Handshake>,
    /// When the destination was last enabled by hand: then it is asked at once.
    enabled_at: Timestamp,
    pause: Duration,
    next: Instant,
}

/// Asks until `stop`.
pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let (mut revision, mut waiting) = (None::<Revision>, Vec::new());
    let mut asked = HashMap::<DestinationId, Asked>::new();
    let (mut tasks, mut last_asked) = (JoinSet::new(), None);
    while tokio::time::timeout(LOOK, stop.cancelled()).await.is_err() {
        while tasks.try_join_next().is_some() {}
        let snapshot = shared.snapshots.current();
        if revision.replace(snapshot.revision) != Some(snapshot.revision) {
            waiting = who_waits(&snapshot);
            asked.retain(|id, asked| {
                let is_same =
                    |one: &Destination, what: &Handshake| one.enabled_at == asked.enabled_at && what.asked == asked.what.asked;
                waiting.iter().any(|(one, what)| one.id == *id && is_same(one, what))
            });
        }
        // Whoever was not asked last goes first.
        let last = waiting.iter().position(|(one, _)| Some(one.id) == last_asked).map_or(0, |last| last + 1);
        let (before, behind) = waiting.split_at(last);
        for (destination, what) in behind.iter().chain(before) {
            let home = snapshot.tenants.get(&destination.tenant).map(|tenant| tenant.shards.home());
            let now = monotonic();
            let is_due = asked.get(&destination.id).is_none_or(|asked| asked.next <= now);
            if !is_due || tasks.len() >= AT_ONCE || !home.is_some_and(|home| shared.share.owns(home)) {
                continue;
            }
            let pause = asked.get(&destination.id).map_or(FIRST_PAUSE, |asked| (asked.pause * 2).min(LAST_PAUSE));
            // Nobody asks again while this may still be under way.
            let next = now + pause.max(PATIENCE);
            asked.insert(destination.id, Asked { what: Arc::clone(what), enabled_at: destination.enabled_at, pause, next });
            last_asked = Some(destination.id);
            tasks.spawn(ask(shared.clone(), Arc::clone(destination), Arc::clone(what)));
        }
    }
}

fn who_waits(snapshot: &Snapshot) -> Vec<(Arc<Destination>, Arc<Handshake>)> {
    let waiting = snapshot.destinations.values().filter_map(|one| Some((Arc::clone(one), one.awaits.clone()?)));
    waiting.collect()
}

async fn ask(shared: Arc<Shared>, destination: Arc<Destination>, what: Arc<Handshake>) {
    let request = Request { method: Method::OPTIONS.to_string(), ..Request::default() };
    let noticed = match OutRequest::new(&destination.target, &request, destination.timeout.min(PATIENCE)) {
        Ok(mut request) => {
            request.headers.insert(REQUEST_ORIGIN, what.origin.clone());
            request.headers.extend(what.rate.map(|rate| (REQUEST_RATE, HeaderValue::from(rate))));
            request.wants_headers = true;
            let sent = shared.egress.send(request, &shared.clock).await;
            match read(&what, &sent) {
                Ok(rate) => Noticed::Agreed { asked: what.asked.clone(), rate },
                Err(detail) => Noticed::NotAgreed { asked: what.asked.clone(), detail },
            }
        }
        Err(error) => Noticed::NotAgreed { asked: what.asked.clone(), detail: error.to_string() },
    };
    (shared.noticed)(destination.tenant, destination.id, noticed, shared.clock.now());
}

/// What an answer allows: requests a minute, none for no limit; or why it allows nothing. The status says nothing, by the specification.
fn read(what: &Handshake, sent: &Sent) -> Result<Option<u32>, String> {
    let none = HeaderMap::new();
    let headers = match (&sent.answer_headers, &sent.failure) {
        (Some(headers), _) => &**headers,
        (None, Some(failure)) if sent.status.is_none() => return Err(failure.detail.clone()),
        (None, _) => &none,
    };
    let mut origins = headers.get_all(ALLOWED_ORIGIN).iter();
    let is_allowed = |origin: &HeaderValue| origin == "*" || origin.as_bytes().eq_ignore_ascii_case(what.origin.as_bytes());
    match (origins.next(), origins.next()) {
        (Some(origin), None) if is_allowed(origin) => {}
        (None, _) => return Err(format!("it answered {} without `WebHook-Allowed-Origin`", sent.status.unwrap_or_default())),
        _ => return Err("its `WebHook-Allowed-Origin` is neither `*` nor the origin that was asked for".to_owned()),
    }
    match headers.get(ALLOWED_RATE) {
        None => Ok(None),
        Some(rate) if rate == "*" => Ok(None),
        Some(rate) => match rate.to_str().ok().and_then(|rate| rate.parse().ok()) {
            Some(rate @ 1..) => Ok(Some(rate)),
            _ => Err("its `WebHook-Allowed-Rate` is neither `*` nor a number of requests a minute from 1 on".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::attempt::unsent;
    use crate::event::{Failure, Party};

    fn answer(headers: &[(&'static str, &'static str)]) -> Result<Option<u32>, String> {
        let what = Handshake { origin: HeaderValue::from_static("hooks.example.com"), rate: None, asked: String::new() };
        let failure = Failure { party: Party::Network, code: "reset".into(), detail: "it hung up".into(), retryable: true };
        let mut sent = unsent(failure);
        if headers.first().is_none_or(|(name, _)| *name != "none") {
            let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            sent = Sent { status: Some(405), answer_headers: Some(Box::new(headers.collect())), ..sent };
        }
        read(&what, &sent)
    }

    #[test]
    fn headers_say_what_is_allowed_whatever_the_status() {
        let origin = ("webhook-allowed-origin", "Hooks.example.com");
        assert_eq!(answer(&[origin]), Ok(None));
        assert_eq!(answer(&[("webhook-allowed-origin", "*"), ("webhook-allowed-rate", "*")]), Ok(None));
        assert_eq!(answer(&[origin, ("webhook-allowed-rate", "120")]), Ok(Some(120)));
        for rate in ["0", "-1", "many", "99999999999"] {
            assert!(answer(&[origin, ("webhook-allowed-rate", rate)]).is_err_and(|detail| detail.contains("Rate")), "{rate}");
        }
        assert!(answer(&[("webhook-allowed-origin", "other.example.com")]).is_err());
        assert!(answer(&[]).is_err_and(|detail| detail.contains("405")));
        assert_eq!(answer(&[("none", "")]), Err("it hung up".into()));
    }
}
