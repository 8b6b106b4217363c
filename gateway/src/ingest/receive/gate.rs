//! Asks a source's plugins about a request before there is an event: `respond` whether it answers it, `verify` whose it is.
//!
//! A sender waits for it, so all of it is bounded: fuel and time of a run by `plugins.gate_fuel` and `plugins.gate_time`, requests of one
//! tenant that wait by `plugins.gate_queue`, and the whole wait by `plugins.gate_wait`. What is over a bound, a failure and a trap are
//! answered 503, and nothing is kept. The plugins run on the gate's own threads, in their tenant's turn, and are paid for out of its fuel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::answer::{Extra, Refusal, jitter};
use super::shares::{Share, Shares};
use super::{Limits, Shared};
use crate::clock::{Clock, Timestamp};
use crate::control::snapshot::{Source, Visit};
use crate::event::{EventId, PluginRun, Request, SharedRequest, SourceId, TenantId};
use crate::ingest::verify::Verdict;
use crate::plugin::fuel::{Fuel, Reserved};
use crate::plugin::{Call, CallError, Report, Response, Runtime, Table, Verification};
use crate::telemetry::metrics::{Ingested, Metrics, PluginOutcome, Track};

/// How often the log tells of one source's refusals.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// Sources whose last telling is remembered.
const TOLD: usize = 1024;

/// Runs the plugins of sources.
pub(super) struct Gate {
    plugins: Runtime,
    waiting: Shares<TenantId>,
    told: Arc<Told>,
}

/// What the plugins of a source said.
pub(super) enum Said {
    /// Send this; it is no event.
    Answer(Response),
    /// It is an event, if the source's verifier takes it with this.
    Event(Option<Verdict>),
}

/// A source whose plugins are to be asked.
pub(super) fn is_asked(source: &Source) -> bool {
    source.verify.is_some() || source.respond.is_some()
}

impl Gate {
    pub(super) fn new(plugins: Runtime, limits: &Limits) -> Self {
        Self { plugins, waiting: Shares::new(limits.gate_queue), told: Arc::default() }
    }

    /// Asks the plugins of a source about a request, and gives it back.
    pub(super) async fn ask(
        &self,
        shared: &Shared,
        source: &Arc<Source>,
        request: Request,
        now: Timestamp,
    ) -> Result<(Request, Said), Refusal> {
        let limits = &shared.limits;
        let tenant = &source.tenant;
        let Some(place) = self.waiting.take(tenant.id, 1) else {
            let detail = "Too many requests of this tenant wait for its plugins (plugins.gate_queue). Nothing was kept.";
            return Err(Refusal::unavailable("plugin_queue_full", detail, Ingested::Overloaded, limits.retry_after));
        };
        let rate = tenant.plan.plugin_fuel.div_ceil(tenant.shards.count() as u64);
        if rate == 0 {
            let detail =
                "The source needs its plugins, and the tenant's plan allows none: plan.plugin_fuel is 0. Nothing was kept.";
            return Err(Refusal::unavailable("plugins_forbidden", detail, Ingested::OverPlan, limits.retry_after));
        }
        let fuel = self.plugins.fuel(tenant.shards.home());
        let Some(reserved) = fuel.begin(tenant.id, rate, now) else {
            return Err(out_of_fuel(fuel.ready_in(tenant.id, rate, now)));
        };
        let request = Arc::new(request);
        let inquiry = Inquiry {
            plugins: self.plugins.clone(),
            told: Arc::clone(&self.told),
            clock: shared.parts.clock.clone(),
            metrics: shared.parts.metrics.clone(),
            source: Arc::clone(source),
            request: Arc::clone(&request),
            fuel,
            rate,
            now,
            _held: (place, reserved),
        };
        // A task of its own: whoever hangs up, or is told to come again, has its runs paid for all the same.
        let said = match tokio::time::timeout(limits.gate_wait, tokio::spawn(inquiry.run())).await {
            Ok(Ok(said)) => said.map_err(|asked| asked.refusal(limits))?,
            Ok(Err(_)) => return Err(Asked::Verify.refusal(limits)),
            Err(_) => {
                let detail = "The source's plugins gave no answer in time (plugins.gate_wait). Nothing was kept.";
                return Err(Refusal::unavailable("plugin_timeout", detail, Ingested::PluginFailed, limits.retry_after));
            }
        };
        Ok((Arc::unwrap_or_clone(request), said))
    }
}

fn out_of_fuel(ready_in: Duration) -> Refusal {
    let after = Duration::from_secs(ready_in.as_secs() + 1);
    let detail = "The tenant's plugins have used up the fuel of its plan: plan.plugin_fuel. Nothing was kept.";
    Refusal::unavailable("plugin_fuel", detail, Ingested::OverPlan, after).extra(Extra::RetryAfter(after + jitter(after)))
}

/// What a plugin is asked.
#[derive(Clone, Copy)]
enum Asked {
    Respond,
    Verify,
}

impl Asked {
    fn track(self) -> Track {
        match self {
            Self::Respond => Track::Respond,
            Self::Verify => Track::Verify,
        }
    }

    fn refusal(self, limits: &Limits) -> Refusal {
        let (code, detail) = match self {
            Self::Respond => ("respond_failed", "The plugin that answers the source's handshakes failed. Nothing was kept."),
            Self::Verify => ("verify_failed", "The plugin that verifies the source's requests failed. Nothing was kept."),
        };
        Refusal::unavailable(code, detail, Ingested::PluginFailed, limits.retry_after)
    }
}

/// One request before the plugins of its source.
struct Inquiry {
    plugins: Runtime,
    told: Arc<Told>,
    clock: Clock,
    metrics: Metrics,
    source: Arc<Source>,
    request: Arc<Request>,
    fuel: Fuel,
    rate: u64,
    now: Timestamp,
    _held: (Share, Reserved),
}

impl Inquiry {
    async fn run(self) -> Result<Said, Asked> {
        if let Some(visit) = &self.source.respond {
            let report = self.plugins.respond(self.call(visit)).await;
            if let Some(response) = self.noted(Asked::Respond, visit, report)? {
                return Ok(Said::Answer(response));
            }
        }
        let Some(visit) = &self.source.verify else { return Ok(Said::Event(None)) };
        let report = self.plugins.verify(self.call(visit)).await;
        Ok(Said::Event(Some(match self.noted(Asked::Verify, visit, report)? {
            Verification::Accept => Verdict::Accept,
            Verification::Reject(reason) => {
                self.tell_rejected(visit, &reason);
                Verdict::Reject
            }
        })))
    }

    fn call(&self, visit: &Visit) -> Call {
        Call {
            tenant: self.source.tenant.id,
            version: visit.version,
            // There is no event: each request has random numbers of its own.
            event: EventId(rand::random()),
            accepted_at: self.now,
            request: SharedRequest::Made(Arc::clone(&self.request)),
            config: Arc::clone(&visit.config),
            secrets: Arc::clone(&visit.secrets),
            limits: visit.limits.clone(),
            table: Table::default(),
            reuse: None,
        }
    }

    /// Pays for a run and tells of it.
    fn noted<T>(&self, asked: Asked, visit: &Visit, report: Report<T>) -> Result<T, Asked> {
        let Report { result, run, .. } = report;
        self.fuel.pay(self.source.tenant.id, self.rate, run.fuel, self.clock.now());
        self.metrics.plugin_run(PluginOutcome { track: asked.track(), ..(&run).into() });
        result.map_err(|error| {
            self.tell_failed(asked, visit, &run, &error);
            asked
        })
    }

    fn tell_rejected(&self, visit: &Visit, reason: &str) {
        if let Some(untold) = self.told.may_tell(self.source.id, self.clock.now()) {
            let (source, tenant, reason) = (self.source.id, self.source.tenant.id, concealed(visit, reason));
            tracing::info!(%source, %tenant, plugin = visit.name, reason, untold, "request rejected by the source's plugin");
        }
    }

    fn tell_failed(&self, asked: Asked, visit: &Visit, run: &PluginRun, error: &CallError) {
        if let Some(untold) = self.told.may_tell(self.source.id, self.clock.now()) {
            let (source, tenant, detail) = (self.source.id, self.source.tenant.id, concealed(visit, &error.to_string()));
            let (plugin, version, code) = (&visit.name, run.version, error.code());
            let what = match asked {
                Asked::Respond => "respond",
                Asked::Verify => "verify",
            };
            tracing::warn!(%source, %tenant, plugin, %version, asked = what, code, detail, untold, "request refused: the source's plugin failed");
        }
    }
}

/// A guest's words without the secrets that it was given.
fn concealed(visit: &Visit, text: &str) -> String {
    let concealed = visit.secrets.conceal(text.as_bytes());
    concealed.map_or_else(|| text.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// When the log last told of a source, and what it has left out since: senders must not fill it.
#[derive(Debug, Default)]
struct Told(Mutex<HashMap<SourceId, (Timestamp, u64)>>);

impl Told {
    /// How many were left out, if this one is to be told.
    fn may_tell(&self, source: SourceId, now: Timestamp) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD && !told.contains_key(&source) {
            told.retain(|_, (at, _)| now.since(*at) < TOLD_EVERY);
            if told.len() >= TOLD {
                return None;
            }
        }
        let (at, untold) = told.entry(source).or_default();
        if now >= *at && now.since(*at) < TOLD_EVERY {
            *untold += 1;
            return None;
        }
        *at = now;
        Some(std::mem::take(untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_of_a_source_once_a_second_and_how_many_it_left_out() {
        let told = Told::default();
        let at = |ms: u64| Timestamp(1_700_000_000_000 + ms);
        let tell = |ms| told.may_tell(SourceId(1), at(ms));
        assert_eq!([tell(0), tell(1), tell(999), tell(1000), tell(1001)], [Some(0), None, None, Some(2), None]);
        assert_eq!(told.may_tell(SourceId(2), at(1001)), Some(0));
        assert_eq!(tell(0), Some(1), "a clock that was set back silences nobody");
    }
}
