//! What is set, tried again, deleted and made anew, each noted as a fact.

use serde_json::{Value, json};
use tidegate::event::EventId;
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Reply, try_send};

use super::Run;
use crate::api::TENANT;
use crate::facts::{self, Link};
use crate::ops::{CONNECTIONS, SOURCES};
use crate::reader::{Shared, lock};
use crate::verdict::Wrong;
use crate::world::SOON;

impl Run {
    /// Changes a setting, and waits until every gateway knows.
    pub(super) async fn set(&mut self, request: (&str, &str, Value), set: impl Fn(&mut facts::Settings)) -> Result<(), Wrong> {
        let (method, path, body) = request;
        self.facts().changes += 1;
        // What was deleted is not there to be changed; a destination can't be limited twice.
        let reply = self.expect(method, path, &body, &[200, 404, 409]).await?;
        self.known().await;
        let mut facts = self.facts();
        if reply.status == 200 {
            set(&mut facts.settings);
        }
        facts.changes += 1;
        Ok(())
    }

    /// Waits until all gateways that run have the same configuration.
    async fn known(&self) {
        eventually("every gateway knows", SOON, async || {
            let mut revisions = Vec::new();
            for base in self.shared.all() {
                let reply = try_send("GET", &format!("{base}/readyz"), &[], "").await.ok()?;
                revisions.push(reply.json()["revision"].as_u64()?);
            }
            revisions.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        })
        .await;
    }

    pub(super) async fn expect(&self, method: &str, path: &str, body: &Value, statuses: &[u16]) -> Result<Reply, Wrong> {
        let reply = self.shared.ask(method, path, "application/json", body.to_string()).await;
        let reply = reply.ok_or_else(|| format!("{method} {path}: no gateway answers"))?;
        if statuses.contains(&reply.status) {
            Ok(reply)
        } else {
            Err(format!("{method} {path}: {} {:?}", reply.status, reply.body))
        }
    }

    pub(super) async fn retry_event(&self, event: usize) -> Result<(), Wrong> {
        let events: Vec<EventId> = self.facts().events.keys().copied().collect();
        if events.is_empty() {
            return Ok(());
        }
        let event = events[event % events.len()];
        self.retrying(|id| id == event, ("POST", &format!("/v1/events/{event}/retry?tenant={TENANT}"), json!({}))).await.map(drop)
    }

    pub(super) async fn retry_letters(&self, count: usize) -> Result<(), Wrong> {
        let path = format!("/v1/dead-letters?tenant={TENANT}&limit={count}");
        let page = self.expect("GET", &path, &Value::Null, &[200]).await?.json();
        let ids: Vec<&str> = page["items"].as_array().into_iter().flatten().filter_map(|letter| letter["id"].as_str()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let path = format!("/v1/dead-letters/retry?tenant={TENANT}");
        self.retrying(|_| true, ("POST", &path, json!({ "ids": ids }))).await.map(drop)
    }

    /// Notes a retry as begun, and as over once it is answered.
    async fn retrying(&self, of: impl Fn(EventId) -> bool, request: (&str, &str, Value)) -> Result<Reply, Wrong> {
        self.note_retry(&of, |retries| retries.0 += 1);
        let reply = self.expect(request.0, request.1, &request.2, &[200, 202, 409]).await?;
        if reply.status != 202 {
            self.note_retry(&of, |retries| retries.1 = retries.0);
        }
        Ok(reply)
    }

    fn note_retry(&self, of: &impl Fn(EventId) -> bool, note: impl Fn(&mut (u64, u64))) {
        let mut facts = self.facts();
        facts.events.iter_mut().filter(|(id, _)| of(**id)).for_each(|(_, event)| note(&mut event.retries));
    }

    pub(super) async fn retry_job(&self) -> Result<(), Wrong> {
        if self.facts().settings.retries_paused {
            // It would not end.
            return Ok(());
        }
        let path = format!("/v1/dead-letters/retry-jobs?tenant={TENANT}");
        let job = self.retrying(|_| true, ("POST", &path, json!({"rate": 30}))).await?;
        if job.status == 202 {
            let path = format!("/v1/dead-letters/retry-jobs/{}?tenant={TENANT}", job.json()["id"].as_str().unwrap_or_default());
            let shared = &self.shared;
            let state = eventually("the job is over", SOON, async || {
                let reply = shared.ask("GET", &path, "application/json", "").await?;
                let state = reply.json()["state"].as_str()?.to_owned();
                (state != "running").then_some(state)
            })
            .await;
            self.note_retry(&|_| true, |retries| retries.1 = retries.0);
            if state != "done" {
                return Err(format!("the job is {state}"));
            }
        }
        Ok(())
    }

    pub(super) async fn delete(&self, kind: &str, name: &str) -> Result<(), Wrong> {
        self.expect("DELETE", &format!("/v1/{kind}/{name}?tenant={TENANT}"), &Value::Null, &[204, 404]).await?;
        self.known().await;
        Ok(())
    }

    pub(super) async fn delete_connections(&self, which: impl Fn(usize) -> bool) -> Result<(), Wrong> {
        for place in (0..CONNECTIONS.len()).filter(|place| which(*place)) {
            let end = |shared: &Shared, is_over: bool| {
                let mut facts = lock(&shared.facts);
                let now = facts.tick();
                let last = facts.links.iter_mut().rev().find(|link| link.place == place);
                if let Some(link) = last {
                    link.gone = Some((link.gone.map_or(now, |gone| gone.0), if is_over { now } else { u64::MAX }));
                }
            };
            let is_there = self.facts().links.iter().any(|link| link.place == place && link.gone.is_none());
            if is_there {
                end(&self.shared, false);
                self.delete("connections", CONNECTIONS[place].0).await?;
                end(&self.shared, true);
            }
        }
        Ok(())
    }

    pub(super) async fn delete_source(&self, source: usize) -> Result<(), Wrong> {
        self.delete_connections(|place| CONNECTIONS[place].1 == source).await?;
        {
            let mut facts = self.facts();
            let Some(id) = facts.sources[source].take() else { return Ok(()) };
            facts.gone_sources.push(id);
        }
        self.delete("sources", SOURCES[source]).await
    }

    /// Makes what is not there.
    pub(super) async fn restore(&mut self) -> Result<(), Wrong> {
        self.facts().changes += 1;
        let mut tenant = self.facts().tenant(&self.receiver.url(""), &self.component);
        tenant["name"] = TENANT.into();
        self.expect("POST", "/v1/apply", &json!({"tenants": [tenant]}), &[200]).await?;
        self.known().await;
        for (place, name) in SOURCES.iter().enumerate() {
            let found = self.expect("GET", &format!("/v1/sources/{name}?tenant={TENANT}"), &Value::Null, &[200]).await?.json();
            self.facts().sources[place] = found["id"].as_str().map(str::to_owned);
        }
        for (place, (name, source, _)) in CONNECTIONS.iter().enumerate() {
            let found = self.expect("GET", &format!("/v1/connections/{name}?tenant={TENANT}"), &Value::Null, &[200]).await?.json();
            let id = found["id"].as_str().and_then(|id| id.parse().ok()).ok_or("no id")?;
            let mut facts = self.facts();
            if !facts.links.iter().any(|link| link.id == id) {
                let (made, source) = (facts.tick(), facts.sources[*source].clone().ok_or("no source")?);
                facts.links.push(Link { place, id, source, made, gone: None });
            }
        }
        self.facts().changes += 1;
        Ok(())
    }
}
