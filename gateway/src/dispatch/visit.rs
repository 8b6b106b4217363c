//! The plugins that a destination names: one signs each attempt, one says what the answer means.
//!
//! They run in the version that the destination names by now, also for deliveries that were frozen before: what they do is made afresh
//! for each attempt and never stored. Their tenant's fuel pays for them; without any the delivery waits in the store, without an attempt.
//! A plugin that can't sign has made the attempt fail, with nothing sent; one that can't judge leaves it to the gateway.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::digest::{Context, SHA256};

use super::attempt::{Past, Planned, unsent};
use super::gate::Stay;
use super::wait::Wait;
use super::work::Worker;
use crate::clock::Timestamp;
use crate::control::snapshot::{Destination, Visit};
use crate::egress::{OutRequest, Sent};
use crate::event::{AttemptPart, AttemptRole, EventId, Failure, Header, Party, PluginRun, Request, SharedRequest};
use crate::plugin::fuel::Reserved;
use crate::plugin::{Attempted, Call, CallError, Judgement, Report, Response, Table};
use crate::telemetry::metrics::{PluginOutcome, Track};
use crate::telemetry::trace::AttemptSpan;

/// What a destination's plugins need for one attempt.
pub(super) struct Visits<'a> {
    worker: &'a Worker,
    planned: &'a Planned,
    rate: u64,
    _fuel: Option<Reserved>,
}

impl<'a> Visits<'a> {
    /// None if the destination names no plugins; or else fuel for them, unless the delivery has to wait for it.
    pub(super) fn enter(worker: &'a Worker, planned: &'a Planned, past: Past) -> Result<Option<Self>, Stay> {
        let destination = &planned.connection.destination;
        if destination.sign.is_none() && destination.judge.is_none() {
            return Ok(None);
        }
        let (shared, tenant) = (&worker.shared, planned.tenant);
        let rate = worker.gates.rate(shared, tenant)?;
        // The first of a line goes behind nothing else.
        let wait = if past.line.is_some() { Wait::PluginFuel } else { Wait::Turn };
        let fuel = if past.fuelled { None } else { Some(worker.gates.begin(shared, &worker.windows, (tenant, rate), wait)?) };
        Ok(Some(Self { worker, planned, rate, _fuel: fuel }))
    }

    /// Signs the request, sends it and has the answer judged. `number` and `span` are the attempt's.
    pub(super) async fn attempt(
        self,
        mut request: OutRequest,
        number: u32,
        started_at: Timestamp,
        span: AttemptSpan,
    ) -> (Sent, Vec<PluginRun>) {
        let destination = &*self.planned.connection.destination;
        let mut visiting = Visiting {
            shown: SharedRequest::Made(Arc::new(shown(&request, destination))),
            attempted: Attempted {
                delivery: self.planned.id,
                event: self.planned.event,
                number,
                started_at,
                origin: destination.target.origin(),
            },
            timeout: destination.timeout,
            span,
            runs: Vec::new(),
            visits: self,
        };
        if let Some(sign) = &destination.sign {
            match visiting.sign(sign).await {
                Ok(headers) => set(&mut request.headers, headers),
                Err(failure) => return (unsent(failure), visiting.runs),
            }
        }
        request.wants_headers = destination.judge.is_some();
        let shared = &visiting.visits.worker.shared;
        let mut sent = shared.egress.send(request, &shared.clock).await;
        if let Some(judge) = &destination.judge {
            visiting.judge(judge, &mut sent).await;
        }
        (sent, visiting.runs)
    }
}

/// The plugins at work on one attempt.
struct Visiting<'a> {
    visits: Visits<'a>,
    /// What goes out, as the plugins see it.
    shown: SharedRequest,
    attempted: Attempted,
    /// How long a plugin is waited for, its turn included.
    timeout: Duration,
    span: AttemptSpan,
    runs: Vec<PluginRun>,
}

impl Visiting<'_> {
    async fn sign(&mut self, visit: &Visit) -> Result<Vec<Header>, Failure> {
        let (call, attempted) = (self.call(visit, AttemptRole::Sign), self.attempted.clone());
        let shared = &self.visits.worker.shared;
        let asked_at = shared.clock.now();
        let Ok(report) = tokio::time::timeout(self.timeout, shared.plugins.sign(call, attempted)).await else {
            return Err(Failure {
                party: Party::Gateway,
                code: "plugin_timeout".into(),
                detail: format!("plugin `{}` did not sign in time: too much runs at once", visit.name),
                retryable: true,
            });
        };
        self.noted(visit, (AttemptRole::Sign, asked_at), report, |_| None).map_err(|error| {
            // Another version can help, and the policy says for how long that is waited for; the plugin itself may know better.
            let retryable = !matches!(error, CallError::Failed { retryable: false, .. });
            let failure = error.to_failure();
            let detail = format!("plugin `{}` did not sign, and nothing was sent: {}", visit.name, failure.detail);
            Failure { detail: concealed(visit, detail), retryable, ..failure }
        })
    }

    /// Puts what the plugin says in place of what the gateway made of the answer.
    async fn judge(&mut self, visit: &Visit, sent: &mut Sent) {
        let headers = sent.answer_headers.take();
        let (Some(status), Some(headers)) = (sent.status, headers) else { return };
        let answer = Response { status, headers: lines(&headers), body: sent.response.clone() };
        let (call, attempted) = (self.call(visit, AttemptRole::Judge), self.attempted.clone());
        let shared = &self.visits.worker.shared;
        let asked_at = shared.clock.now();
        let asked = tokio::time::timeout(self.timeout, shared.plugins.judge(call, attempted, answer)).await;
        let report = asked.unwrap_or_else(|_| {
            Report::failed(visit.version, CallError::Gateway("it was not its turn in time: too much runs at once".into()))
        });
        let role = (AttemptRole::Judge, asked_at);
        let Ok(judgement) = self.noted(visit, role, report, |judgement| Some(verdict(judgement))) else { return };
        let failure = |code: &str, detail: String, retryable| {
            let (party, code) = (Party::Destination, code.to_owned());
            Some(Failure { party, code, detail: concealed(visit, detail), retryable })
        };
        match judgement {
            Judgement::Default => {}
            Judgement::Delivered => sent.failure = None,
            Judgement::Retry(after) => {
                let detail = format!("answered {status}, by which plugin `{}` wants it tried again", visit.name);
                sent.failure = failure("judged_retry", detail, true);
                if let Some(after) = after {
                    sent.retry_after = Some(self.visits.worker.shared.clock.now().after(after));
                }
            }
            Judgement::DeadLetter(reason) => {
                let detail = format!("answered {status}, by which plugin `{}` gives it up: {reason}", visit.name);
                sent.failure = failure("judged_dead_letter", detail, false);
            }
        }
    }

    fn call(&self, visit: &Visit, role: AttemptRole) -> Call {
        Call {
            tenant: self.visits.planned.tenant,
            version: visit.version,
            event: seed(&self.attempted, role),
            accepted_at: self.attempted.started_at,
            request: self.shown.clone(),
            config: Arc::clone(&visit.config),
            secrets: Arc::clone(&visit.secrets),
            limits: visit.limits.clone(),
            table: Table::default(),
            reuse: None,
        }
    }

    /// Pays for a run, tells of it, and keeps it for the attempt's record.
    fn noted<T>(
        &mut self,
        visit: &Visit,
        (role, asked_at): (AttemptRole, Timestamp),
        report: Report<T>,
        verdict: impl FnOnce(&T) -> Option<&'static str>,
    ) -> Result<T, CallError> {
        let Report { result, mut run, .. } = report;
        let worker = self.visits.worker;
        worker.gates.fuel.pay(self.visits.planned.tenant, self.visits.rate, run.fuel, worker.shared.clock.now());
        let track = match role {
            AttemptRole::Sign => Track::Sign,
            AttemptRole::Judge => Track::Judge,
        };
        worker.shared.metrics.plugin_run(PluginOutcome { track, ..(&run).into() });
        if let Err(failure) = &mut run.outcome {
            failure.detail = concealed(visit, std::mem::take(&mut failure.detail));
        }
        run.logs = run.logs.into_iter().map(|line| concealed(visit, line)).collect();
        worker.shared.spans.visit(self.span, self.visits.planned.of(), &visit.name, asked_at, &run);
        let verdict = result.as_ref().ok().and_then(verdict).map(str::to_owned);
        let part = AttemptPart { role, attempt: self.attempted.number, plugin: visit.name.clone(), verdict };
        self.runs.push(run.for_attempt(&part));
        result
    }
}

fn verdict(judgement: &Judgement) -> &'static str {
    match judgement {
        Judgement::Default => "default",
        Judgement::Delivered => "delivered",
        Judgement::Retry(_) => "retry",
        Judgement::DeadLetter(_) => "dead_letter",
    }
}

/// What goes out but for what the destination and the gateway add to it.
fn shown(request: &OutRequest, destination: &Destination) -> Request {
    let own = |name: &HeaderName| {
        name == USER_AGENT
            || name.as_str() == "traceparent"
            || name.as_str().starts_with("webhook-")
            || destination.headers.iter().any(|(set, _)| set == name)
    };
    let headers = lines(&request.headers).into_iter();
    Request {
        method: request.method.as_str().to_owned(),
        path: request.path_and_query.path().to_owned(),
        query: request.path_and_query.query().map(str::to_owned),
        headers: headers.filter(|line| HeaderName::try_from(&line.name).is_ok_and(|name| !own(&name))).collect(),
        body: request.body.clone(),
    }
}

fn lines(headers: &HeaderMap) -> Vec<Header> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| Header {
        name: name.as_str().to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    headers.iter().map(line).collect()
}

/// They replace lines of the same name. Values are kept out of what is shown: a signature may be a credential.
fn set(headers: &mut HeaderMap, lines: Vec<Header>) {
    let lines = lines.into_iter().filter_map(|Header { name, value }| {
        // The sandbox has let nothing else through.
        Some((HeaderName::try_from(name).ok()?, HeaderValue::from_maybe_shared(value).ok()?))
    });
    let lines: Vec<_> = lines.collect();
    for (name, _) in &lines {
        headers.remove(name);
    }
    for (name, mut value) in lines {
        value.set_sensitive(true);
        headers.append(name, value);
    }
}

/// From what the random numbers of a run are made: others for each attempt, the same in each test.
fn seed(attempted: &Attempted, role: AttemptRole) -> EventId {
    let mut context = Context::new(&SHA256);
    context.update(b"tidegate attempt 1");
    context.update(&attempted.delivery.0.to_be_bytes());
    context.update(&attempted.number.to_be_bytes());
    context.update(role.as_str().as_bytes());
    let mut first = [0; 16];
    first.copy_from_slice(&context.finish().as_ref()[..16]);
    EventId(u128::from_be_bytes(first))
}

/// A guest's words without the secrets that it was given.
fn concealed(visit: &Visit, text: String) -> String {
    match visit.secrets.conceal(text.as_bytes()) {
        Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        None => text,
    }
}
