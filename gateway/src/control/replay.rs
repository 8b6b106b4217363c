//! Runs two versions of a plugin over a connection's stored events and compares what the whole chain gives. Nothing is delivered and
//! nothing is stored.
//!
//! Each call looks at a bounded number of events ([`MAX_EXAMINED`]), compares a bounded number of them ([`MAX_COMPARED`]), and stops soon
//! after [`ENOUGH`]; it says where to go on. Times and random numbers are the events' own, so the same event gives the same again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::homes::Homes;
use super::model::{Faults, Plugins};
use super::service::{Control, Error, parse_cursor};
use super::snapshot::{Connection, OnFailure, StageKind};
use super::trial::as_sent;
use crate::clock::{Timestamp, monotonic};
use crate::dispatch::filter::View;
use crate::event::{Event, EventId, Request, SharedRequest, VersionHash};
use crate::plugin::compare::Comparison;
use crate::plugin::table::Place;
use crate::plugin::{Call, Table};
use crate::store::{MAX_PAGE, PageRequest};

/// Events compared by one call.
pub const MAX_COMPARED: usize = 100;
/// Events looked at by one call.
pub const MAX_EXAMINED: usize = 1000;
/// Differences listed by one call; events that differ beyond are counted.
const MAX_LISTED: usize = 500;
/// After this long no further event is begun.
const ENOUGH: Duration = Duration::from_secs(10);
/// Requests that one event may become on its way through the chain.
const MAX_OUTPUTS: usize = 1000;

/// What to compare over which events.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaySpec {
    /// The version to judge: its hash, or an alias.
    version: String,
    /// What it is compared with: a hash, or an alias. What the connection names when left out.
    #[serde(default)]
    against: Option<String>,
    /// The connection's id or name: its source's events go through its filter and its chain.
    connection: String,
    /// Only events accepted at this time or later (RFC 3339).
    #[serde(default)]
    #[schema(example = "2026-01-31T10:00:00Z")]
    since: Option<String>,
    /// Only events accepted before this time (RFC 3339).
    #[serde(default)]
    until: Option<String>,
    /// Events to compare, at most 100. Default 50.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// The `next` of the call before.
    #[serde(default)]
    cursor: Option<String>,
}

/// What a replay found, newest events first.
#[derive(Debug)]
pub struct Replayed {
    /// The version that was compared with.
    pub against: VersionHash,
    /// The version that was judged.
    pub version: VersionHash,
    /// Counts.
    pub totals: Totals,
    /// Events that would change.
    pub changed: Vec<Changed>,
    /// Where to go on, if there may be more.
    pub next: Option<EventId>,
}

/// What became of the events that one call looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events of the connection's source.
    pub events: u64,
    /// Not for the connection, by its filter.
    pub filtered: u64,
    /// Whose request is not kept any more.
    pub gone: u64,
    /// Both versions give the same.
    pub same: u64,
    /// Both give the same JSON, written in another way.
    pub formatting: u64,
    /// They give something else.
    pub different: u64,
    /// The judged version fails where the other does not.
    pub failed: u64,
    /// The judged version does not fail where the other does.
    pub mended: u64,
}

/// An event that would change.
#[derive(Debug)]
pub struct Changed {
    /// The event.
    pub event: EventId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// What the version gives that was compared with: how many requests, or the failure's code.
    pub before: Result<usize, String>,
    /// What the judged version gives.
    pub after: Result<usize, String>,
    /// What differs.
    pub comparison: Comparison,
}

/// Who takes part.
struct Pair {
    connection: Arc<Connection>,
    stage: usize,
    against: (VersionHash, StageKind),
    version: (VersionHash, StageKind),
}

struct Window {
    since: Timestamp,
    before: Option<EventId>,
    limit: u64,
}

impl Control {
    /// Compares two versions over stored events.
    pub async fn replay(&self, homes: &Homes, plugin: &str, spec: &ReplaySpec) -> Result<Replayed, Error> {
        let window = spec.window()?;
        let pair = self.pair(homes, plugin, spec)?;
        let began = monotonic();
        let (mut totals, mut changed, mut listed) = (Totals::default(), Vec::new(), 0);
        let (mut before, mut examined) = (window.before, 0);
        loop {
            let page = self.events(homes, PageRequest { before, limit: MAX_PAGE }).await?;
            for (home, summary) in page.items {
                if summary.id.made_at() < window.since {
                    return Ok(pair.replayed(totals, changed, None));
                }
                examined += 1;
                if summary.source == pair.connection.source {
                    totals.events += 1;
                    match self.store.event(home, summary.id).await?.and_then(|history| history.event) {
                        None => totals.gone += 1,
                        Some(event) => {
                            if let Some(one) = self.compare(&pair, Arc::new(event), &mut totals).await {
                                listed += one.comparison.differences.len().max(1);
                                if listed <= MAX_LISTED {
                                    changed.push(one);
                                }
                            }
                        }
                    }
                }
                let compared = totals.events - totals.gone - totals.filtered;
                if compared >= window.limit || listed >= MAX_LISTED || examined >= MAX_EXAMINED || began.elapsed() > ENOUGH {
                    return Ok(pair.replayed(totals, changed, Some(summary.id)));
                }
            }
            match page.next {
                Some(next) => before = Some(next),
                None => return Ok(pair.replayed(totals, changed, None)),
            }
        }
    }

    fn pair(&self, homes: &Homes, plugin: &str, spec: &ReplaySpec) -> Result<Pair, Error> {
        let plugin = self.get::<Plugins>(homes.tenant, plugin)?;
        let (connection, stage) = self.stage_of(homes, &plugin, &spec.connection)?;
        let mut faults = Faults::default();
        let mut find = |field: &str, reference: &str| {
            let found = plugin.parts.resolve(reference).map(|version| (version.hash, version.kind));
            if found.is_none() {
                faults.add(field, "is neither a version nor an alias of this plugin");
            }
            found
        };
        let own = (connection.chain[stage].version, connection.chain[stage].kind);
        let version = find("version", &spec.version).unwrap_or(own);
        let against = spec.against.as_ref().map_or(Some(own), |against| find("against", against)).unwrap_or(own);
        faults.or(Pair { connection, stage, against, version }).map_err(Error::Invalid)
    }

    /// What would change for an event, if anything would.
    async fn compare(&self, pair: &Pair, event: Arc<Event>, totals: &mut Totals) -> Option<Changed> {
        let filter = pair.connection.filter.as_ref();
        if !filter.is_none_or(|filter| filter.matches(&View::new(&event.request)).unwrap_or(false)) {
            totals.filtered += 1;
            return None;
        }
        let start = vec![SharedRequest::Event(Arc::clone(&event))];
        let common = self.stages(pair, &event, 0..pair.stage, None, Ok(start)).await;
        let rest = pair.stage..pair.connection.chain.len();
        let before = self.stages(pair, &event, rest.clone(), Some(pair.against), common.clone()).await;
        let after = self.stages(pair, &event, rest, Some(pair.version), common).await;
        let (before, after) = (pair.as_sent(before), pair.as_sent(after));
        let requests = |made: &Result<Vec<Request>, String>| made.as_ref().map(Vec::len).map_err(String::clone);
        let (ours, theirs) = (before.as_deref().unwrap_or_default(), after.as_deref().unwrap_or_default());
        let comparison = Comparison::of(&ours.iter().collect::<Vec<_>>(), &theirs.iter().collect::<Vec<_>>());
        let count = match (&before, &after) {
            (Ok(_), Err(_)) => &mut totals.failed,
            (Err(_), Ok(_)) => &mut totals.mended,
            (Err(before), Err(after)) if before != after => &mut totals.different,
            _ if !comparison.is_same() => &mut totals.different,
            _ if comparison.formatting => &mut totals.formatting,
            _ => &mut totals.same,
        };
        *count += 1;
        let is_same = comparison.is_same() && before.as_ref().err() == after.as_ref().err();
        let (before, after) = (requests(&before), requests(&after));
        (!is_same).then_some(Changed { event: event.id, accepted_at: event.accepted_at, before, after, comparison })
    }

    /// What some stages of the chain make of requests; the first of them with another version, if one is given.
    async fn stages(
        &self,
        pair: &Pair,
        event: &Event,
        stages: std::ops::Range<usize>,
        with: Option<(VersionHash, StageKind)>,
        from: Result<Vec<SharedRequest>, String>,
    ) -> Result<Vec<SharedRequest>, String> {
        let mut current = from?;
        let first = stages.start;
        for number in stages {
            let stage = &pair.connection.chain[number];
            let (version, kind) = with.filter(|_| number == first).unwrap_or((stage.version, stage.kind));
            let mut next = Vec::new();
            for (index, input) in (0..).zip(current) {
                let place = Place {
                    tenant: event.tenant,
                    plugin: stage.plugin,
                    event: event.id,
                    connection: pair.connection.id,
                    stage: u32::try_from(number).unwrap_or(u32::MAX),
                    input: index,
                };
                let call = Call {
                    tenant: event.tenant,
                    version,
                    event: event.id,
                    accepted_at: event.accepted_at,
                    request: input.clone(),
                    config: Arc::clone(&stage.config),
                    secrets: Arc::clone(&stage.secrets),
                    limits: stage.limits.clone(),
                    table: Table::trial(place),
                    reuse: None,
                };
                match self.run_paid(kind, call).await.result {
                    Ok(None) => next.push(input),
                    Ok(Some(outputs)) => next.extend(outputs.into_iter().map(|output| SharedRequest::Made(Arc::new(output)))),
                    Err(_) if stage.on_failure == OnFailure::PassThrough => next.push(input),
                    Err(error) => return Err(error.to_failure().code),
                }
                if next.len() > MAX_OUTPUTS {
                    return Err("too_many_outputs".to_owned());
                }
            }
            current = next;
        }
        Ok(current)
    }
}

impl Pair {
    fn as_sent(&self, made: Result<Vec<SharedRequest>, String>) -> Result<Vec<Request>, String> {
        let conceal = |request: SharedRequest| {
            let stages = self.connection.chain.iter();
            stages.fold(request.into_request(), |request, stage| as_sent(request, &self.connection.withheld, &stage.secrets))
        };
        made.map(|requests| requests.into_iter().map(conceal).collect())
    }

    fn replayed(&self, totals: Totals, changed: Vec<Changed>, next: Option<EventId>) -> Replayed {
        Replayed { against: self.against.0, version: self.version.0, totals, changed, next }
    }
}

impl ReplaySpec {
    fn window(&self) -> Result<Window, Error> {
        let mut faults = Faults::default();
        let mut time = |field: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(humantime::parse_rfc3339_weak).transpose();
            parsed.unwrap_or_else(|_| {
                faults.add(field, "must be a time like `2026-01-31T10:00:00Z` (RFC 3339, UTC)");
                None
            })
        };
        let since = time("since", &self.since).map_or(Timestamp(0), |time: SystemTime| time.into());
        let until = time("until", &self.until).map(|time: SystemTime| EventId::new(time.into(), 0));
        let limit = self.limit.unwrap_or(MAX_COMPARED / 2);
        faults.range("limit", limit, 1, MAX_COMPARED);
        let cursor: Option<EventId> = self.cursor.as_deref().map(parse_cursor).transpose()?;
        let before = [cursor, until].into_iter().flatten().min();
        faults.or(Window { since, before, limit: limit as u64 }).map_err(Error::Invalid)
    }
}
