//! Who reads what the gateways show, and has it judged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tidegate::event::{DeliveryId, EventId};
use tidegate_test_support::http::{Reply, try_send};

use crate::api::TENANT;
use crate::facts::{Accepted, Facts};
use crate::verdict::Wrong;
use crate::world::OPERATOR;

/// Between two reads of who reads all the while.
const PACE: Duration = Duration::from_millis(4);

/// What the driver and the reader share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) facts: Arc<Mutex<Facts>>,
    /// Addresses of the gateways' APIs that can be asked.
    pub(crate) bases: Arc<Mutex<Vec<String>>>,
    /// One read at a time, so that what one shows comes after what the other showed.
    pub(crate) reading: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    pub(crate) fn all(&self) -> Vec<String> {
        lock(&self.bases).clone()
    }

    /// Asks any gateway that runs; none if it went away.
    pub(crate) async fn ask(&self, method: &str, path: &str, kind: &str, body: impl Into<Bytes>) -> Option<Reply> {
        let base = self.all().choose(&mut rand::rng())?.clone();
        ask(&base, method, path, kind, body).await
    }

    pub(crate) fn accepted(&self, id: EventId, number: usize) -> Result<(), Wrong> {
        let mut facts = lock(&self.facts);
        let accepted = facts.events.entry(id).or_insert(Accepted { number, retries: (0, 0), seen: None });
        if accepted.number == number { Ok(()) } else { Err(format!("{id} is event {} and {number}", accepted.number)) }
    }

    /// An event that was acknowledged is there, by its id and among the newest, whichever gateway is asked.
    pub(crate) async fn listed_at_once(&self, id: EventId) -> Result<(), Wrong> {
        for base in self.all() {
            self.show(&base, id).await?;
            let _turn = self.reading.lock().await;
            let path = format!("{base}/v1/events?tenant={TENANT}&limit=60");
            let Some(page) = get(&path).await? else { continue };
            let items = page["items"].as_array().ok_or("no items")?;
            if !items.iter().any(|item| item["id"] == id.to_string()) {
                return Err(format!("{id} is not among the newest {}", items.len()));
            }
        }
        Ok(())
    }

    /// Judges one event as a gateway shows it.
    async fn show(&self, base: &str, id: EventId) -> Result<(), Wrong> {
        let _turn = self.reading.lock().await;
        let asked = lock(&self.facts).asked();
        let Some(shown) = get(&format!("{base}/v1/events/{id}?tenant={TENANT}")).await? else { return Ok(()) };
        lock(&self.facts).judge(&shown, &asked)
    }

    /// Judges every event as any gateway lists it; whether each has come to its end.
    pub(crate) async fn listing(&self) -> Result<Vec<bool>, Wrong> {
        let base = self.all().choose(&mut rand::rng()).cloned().ok_or("no gateway runs")?;
        self.listing_of(&base).await
    }

    pub(crate) async fn listing_of(&self, base: &str) -> Result<Vec<bool>, Wrong> {
        let _turn = self.reading.lock().await;
        let known: Vec<EventId> = lock(&self.facts).events.keys().copied().collect();
        let (mut listed, mut ended, mut cursor) = (Vec::<EventId>::new(), Vec::new(), String::new());
        loop {
            let asked = lock(&self.facts).asked();
            let path = format!("{base}/v1/events?tenant={TENANT}&limit=23{cursor}");
            let Some(page) = get(&path).await? else { return Ok(ended) };
            for item in page["items"].as_array().ok_or("no items")? {
                let id: EventId = item["id"].as_str().and_then(|id| id.parse().ok()).ok_or("no id")?;
                if listed.last().is_some_and(|newer| *newer <= id) {
                    return Err(format!("{id} is listed behind {:?}", listed.last()));
                }
                listed.push(id);
                let is_known = lock(&self.facts).events.contains_key(&id);
                if !is_known {
                    self.adopt(base, id).await?;
                }
                lock(&self.facts).judge(item, &asked)?;
                ended.push(!matches!(item["state"].as_str(), Some("queued" | "active")));
            }
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let missing = known.into_iter().find(|id| !listed.contains(id));
        missing.map_or(Ok(ended), |id| Err(format!("{id} is not listed")))
    }

    /// An event whose acknowledgement did not come, or is still to come: its body tells which it is.
    async fn adopt(&self, base: &str, id: EventId) -> Result<(), Wrong> {
        let Some(shown) = get(&format!("{base}/v1/events/{id}?tenant={TENANT}")).await? else { return Ok(()) };
        let body: Value = shown["request"]["body"].as_str().and_then(|body| serde_json::from_str(body).ok()).ok_or("no body")?;
        let number = body["number"].as_u64().ok_or("no number")? as usize;
        let answer = lock(&self.facts).sent.get(number).map(|sent| sent.answer);
        if !matches!(answer, Some(None | Some(202 | 503))) {
            return Err(format!("{id} is event {number}, which was answered with {answer:?}"));
        }
        self.accepted(id, number)
    }

    /// The dead letters that a gateway lists.
    pub(crate) async fn letters(&self, base: &str) -> Result<BTreeSet<DeliveryId>, Wrong> {
        let (mut letters, mut cursor) = (BTreeSet::new(), String::new());
        loop {
            let path = format!("{base}/v1/dead-letters?tenant={TENANT}&limit=7{cursor}");
            let Some(page) = get(&path).await? else { return Err("the gateway went away".to_owned()) };
            for letter in page["items"].as_array().ok_or("no items")? {
                let id = letter["id"].as_str().and_then(|id| id.parse().ok()).ok_or("no id")?;
                if !letters.insert(id) {
                    return Err(format!("{id} is listed twice"));
                }
            }
            let Some(next) = page["next"].as_str() else { return Ok(letters) };
            cursor = format!("&cursor={next}");
        }
    }

    /// What is not at its end.
    pub(crate) fn open(&self) -> Vec<(EventId, Accepted)> {
        let facts = lock(&self.facts);
        let is_open = |event: &Accepted| event.seen.as_ref().is_none_or(|seen| matches!(seen.state.as_str(), "queued" | "active"));
        facts.events.iter().filter(|(_, event)| is_open(event)).map(|(id, event)| (*id, event.clone())).take(3).collect()
    }

    /// Reads at random until it is told to stop, or something is wrong.
    pub(crate) async fn read_on(self, seed: u64, stop: Arc<AtomicBool>) -> Result<(), Wrong> {
        let mut dice = StdRng::seed_from_u64(!seed);
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.load(Ordering::SeqCst) {
            pace.tick().await;
            let Some(base) = self.all().choose(&mut dice).cloned() else { continue };
            if dice.random_bool(0.03) {
                self.listing_of(&base).await?;
                continue;
            }
            let event = {
                let facts = lock(&self.facts);
                let events: Vec<EventId> = facts.events.keys().copied().collect();
                // The newest more often.
                let from = if dice.random_bool(0.7) { events.len().saturating_sub(12) } else { 0 };
                events[from..].choose(&mut dice).copied()
            };
            if let Some(event) = event {
                self.show(&base, event).await?;
            }
        }
        Ok(())
    }
}

async fn ask(base: &str, method: &str, path: &str, kind: &str, body: impl Into<Bytes>) -> Option<Reply> {
    let bearer = format!("Bearer {OPERATOR}");
    try_send(method, &format!("{base}{path}"), &[("authorization", &bearer), ("content-type", kind)], body).await.ok()
}

/// What the API shows; none if the gateway went away, or its store did for a moment.
async fn get(url: &str) -> Result<Option<Value>, Wrong> {
    match ask("", "GET", url, "application/json", "").await {
        Some(reply) if reply.status == 200 => Ok(Some(reply.json())),
        None => Ok(None),
        Some(reply) if reply.status == 503 => Ok(None),
        Some(reply) => Err(format!("GET {url}: {} {:?}", reply.status, reply.body)),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
