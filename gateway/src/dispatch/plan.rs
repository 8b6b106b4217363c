//! Plans an event: what each connection of its source makes of it, as zero, one or many requests.

use std::sync::Arc;

use super::Shared;
use super::attempt::{Past, Planned};
use super::filter::View;
use super::gate::{Gate, Run, Stay, Turn};
use super::order;
use super::output::Made;
use super::schedule::{History, Next, Outcome};
use super::wait::Wait;
use crate::clock::{Timestamp, monotonic};
use crate::control::inspect::Inspector;
use crate::control::snapshot::{Connection, OnFailure, Snapshot, Stage};
use crate::event::{ConnectionId, Delivery, DeliveryId, Event, Failure, Party, PluginRun, Request, SharedRequest};
use crate::plugin::table::Place;
use crate::plugin::{Call, Report, Reuse, Table};
use crate::store::{DeliveryRecord, DeliveryState, Job, QueueKey, Work};
use crate::telemetry::metrics::{PluginOutcome, Track};
use crate::telemetry::trace;

/// What a plan gives.
pub(super) struct Plan {
    /// Outcomes that need no attempt.
    pub(super) settled: Vec<DeliveryRecord>,
    /// Requests to make.
    pub(super) planned: Vec<Planned>,
    /// What plugins made of the event.
    pub(super) made: Made,
}

impl Plan {
    fn of(shared: &Shared, settled: Vec<DeliveryRecord>, planned: Vec<Planned>) -> Self {
        Self { settled, planned, made: shared.outputs.none() }
    }
}

/// Plans an event on one connection, where its first delivery has this id, or on all of its source. What stands in `recorded` is skipped:
/// it has happened.
pub(super) async fn plan(
    gate: Gate<'_>,
    event: Arc<Event>,
    only: Option<(ConnectionId, DeliveryId)>,
    recorded: &[DeliveryRecord],
    past: Past,
) -> Plan {
    let shared = gate.shared;
    let snapshot = shared.snapshots.at_least(event.revision).await;
    let first = only.map(|(_, first)| first);
    let planner = Planner { shared, gate, event: &event, first, past, now: shared.clock.now() };
    let connections = match planner.connections(&snapshot, only.map(|(connection, _)| connection)) {
        Ok(connections) => connections,
        Err(settled) => {
            planner.tell_dead(std::slice::from_ref(&*settled));
            return Plan::of(shared, vec![*settled], Vec::new());
        }
    };
    let mut plan = Plan::of(shared, Vec::new(), Vec::new());
    if connections.is_empty() {
        let id = DeliveryId::of_event(event.id);
        plan.settled.push(planner.row(id, None, DeliveryState::Unmatched));
    }
    let view = View::new(&event.request);
    for connection in connections {
        // A connection's outcomes are recorded under its first delivery's id at least, so that id tells whether it was planned.
        let first = planner.first(connection.id);
        if !recorded.iter().any(|row| row.id == first) {
            planner.connect(&connection, &view, &mut plan).await;
        }
    }
    planner.tell_dead(&plan.settled);
    plan
}

/// A frozen delivery, ready for its next attempt.
pub(super) fn resume(shared: &Shared, delivery: Delivery, past: Past) -> Plan {
    let snapshot = shared.snapshots.load();
    match snapshot.connections.get(&delivery.connection) {
        Some(connection) => Plan::of(shared, Vec::new(), vec![Planned::frozen(delivery, connection.clone())]),
        None => {
            let reason = unknown("connection", &delivery.connection);
            let now = shared.clock.now();
            shared.spans.dead_lettered(delivery.trace, Some(delivery.connection), delivery.id, now, &reason);
            let row = DeliveryRecord {
                id: delivery.id,
                connection: Some(delivery.connection),
                destination: Some(delivery.destination),
                output: delivery.output,
                at: now,
                state: DeliveryState::DeadLettered { reason },
                attempts: Vec::new(),
                runs: Vec::new(),
                job: Some(Box::new(past.job(delivery.id, Work::Attempt(Box::new(delivery))))),
            };
            Plan::of(shared, vec![row], Vec::new())
        }
    }
}

struct Planner<'a> {
    shared: &'a Shared,
    gate: Gate<'a>,
    event: &'a Arc<Event>,
    /// The id of the first delivery, where the plan is of one connection.
    first: Option<DeliveryId>,
    past: Past,
    now: Timestamp,
}

/// What the chain of plugins made of the event.
enum Chained {
    Outputs(Vec<SharedRequest>),
    DroppedBy(String),
    Failed { failure: Failure, policy: OnFailure },
    Stays(Stay),
}

/// How the plugins' runs went.
#[derive(Default)]
struct Ran {
    runs: Vec<PluginRun>,
    used_table: bool,
    /// Of all runs together.
    price: u64,
}

impl Planner<'_> {
    fn first(&self, connection: ConnectionId) -> DeliveryId {
        self.first.unwrap_or_else(|| DeliveryId::derive(self.event.id, connection, 0))
    }

    fn connections(&self, snapshot: &Snapshot, only: Option<ConnectionId>) -> Result<Vec<Arc<Connection>>, Box<DeliveryRecord>> {
        if let Some(id) = only {
            let first = self.first(id);
            return match snapshot.connections.get(&id) {
                Some(connection) => Ok(vec![connection.clone()]),
                None => Err(Box::new(self.dead(first, Some(id), unknown("connection", &id)))),
            };
        }
        match snapshot.sources.get(&self.event.source) {
            Some(source) => Ok(match self.event.only() {
                None => source.connections.clone(),
                Some(only) => source.connections.iter().filter(|connection| connection.id == only).cloned().collect(),
            }),
            None => Err(Box::new(self.dead(DeliveryId::of_event(self.event.id), None, unknown("source", &self.event.source)))),
        }
    }

    async fn connect(&self, connection: &Arc<Connection>, view: &View<'_>, plan: &mut Plan) {
        let (started_at, began) = (self.shared.clock.now(), monotonic());
        let outcome = self.outcome(connection, view, plan).await;
        // A plan that is tried again keeps its first span: they would have the same id.
        if self.past.attempts == 0 {
            let outcome = outcome.as_ref().copied();
            let planned = trace::Planned { connection: connection.id, started_at, took: began.elapsed(), outcome };
            self.shared.spans.planned(self.event, planned);
        }
    }

    /// Adds what becomes of the event on one connection; tells how many requests that is, or why there are none.
    async fn outcome(&self, connection: &Arc<Connection>, view: &View<'_>, plan: &mut Plan) -> Result<u32, Failure> {
        let first = self.first(connection.id);
        match connection.filter.as_ref().map_or(Ok(true), |filter| filter.matches(view)) {
            Ok(true) => {}
            Ok(false) => {
                let state = DeliveryState::Filtered { by: "filter".to_owned() };
                plan.settled.push(self.row(first, Some(connection.id), state));
                return Ok(0);
            }
            Err(error) => {
                let reason = failure(Party::Gateway, "filter_too_costly", error.to_string(), false);
                plan.settled.push(self.dead(first, Some(connection.id), reason.clone()));
                return Err(reason);
            }
        }
        // The shard's loop puts events into their lines; this one it could not know yet.
        if self.past.line.is_none()
            && let Some(line) = order::end_of_line(connection, view, &self.event.request, self.now)
        {
            let past = Past { line: Some(line), ..self.past };
            let (state, _) = order::stay(self.shared, self.event.tenant, line, past, Wait::Order);
            let job = Some(Box::new(past.job(first, self.work(Some(connection.id)))));
            plan.settled.push(DeliveryRecord { job, ..self.row(first, Some(connection.id), state) });
            return Ok(0);
        }
        let mut ran = Ran::default();
        let chained = self.entered(connection, &mut ran, &mut plan.made).await;
        let Ran { runs, used_table, .. } = ran;
        match chained {
            Chained::Outputs(outputs) => {
                let count = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
                self.outputs(connection, outputs, runs, used_table, plan);
                Ok(count)
            }
            Chained::DroppedBy(by) => {
                let row = self.row(first, Some(connection.id), DeliveryState::Filtered { by });
                plan.settled.push(DeliveryRecord { runs, ..row });
                Ok(0)
            }
            Chained::Stays(Stay::In(queue, wait)) => {
                if let Some(line) = self.past.line {
                    let (state, line) = order::stay(self.shared, self.event.tenant, line, self.past, wait);
                    let past = Past { line: Some(line), ..self.past };
                    let job = Some(Box::new(past.job(first, self.work(Some(connection.id)))));
                    plan.settled.push(DeliveryRecord { runs, job, ..self.row(first, Some(connection.id), state) });
                    return Ok(0);
                }
                self.gate.park(queue, wait);
                let state = DeliveryState::Parked { reason: wait.as_str().to_owned(), queue: Some(queue) };
                let job = Some(Box::new(self.past.job(first, self.work(Some(connection.id)))));
                plan.settled.push(DeliveryRecord { runs, job, ..self.row(first, Some(connection.id), state) });
                Ok(0)
            }
            Chained::Stays(Stay::Out(reason)) => {
                plan.settled.push(DeliveryRecord { runs, ..self.dead(first, Some(connection.id), reason.clone()) });
                Err(reason)
            }
            Chained::Failed { failure, policy } => {
                plan.settled.push(DeliveryRecord { runs, ..self.failed(connection, failure.clone(), policy) });
                Err(failure)
            }
        }
    }

    /// One output is attempted at once. Several are stored first, so that a crash can't give the event other outputs in another
    /// number; and so is what depends on a table, which may have changed by the time it were made again.
    fn outputs(
        &self,
        connection: &Arc<Connection>,
        outputs: Vec<SharedRequest>,
        runs: Vec<PluginRun>,
        used_table: bool,
        plan: &mut Plan,
    ) {
        let stored_first = outputs.len() > 1 || used_table;
        let mut runs = Some(runs);
        for (output, request) in (0..).zip(outputs) {
            let id = self.first(connection.id).output(self.event.id, connection.id, output);
            let mut planned = Planned::new(self.event, connection.clone(), (id, output), request);
            planned.runs = runs.take().unwrap_or_default();
            if stored_first {
                plan.settled.push(planned.scheduled(self.past, self.now));
            } else {
                plan.planned.push(planned);
            }
        }
    }

    /// The chain, if its connection is not paused and its plugins may run now.
    async fn entered(&self, connection: &Connection, ran: &mut Ran, made: &mut Made) -> Chained {
        let paused = QueueKey::Paused(self.event.tenant, connection.id);
        // Newcomers go behind what waits already.
        if connection.paused || (self.gate.goes_behind(Wait::ConnectionPaused) && self.gate.windows.is_waiting(paused)) {
            return Chained::Stays(Stay::In(paused, Wait::ConnectionPaused));
        }
        if connection.chain.is_empty() {
            return Chained::Outputs(vec![SharedRequest::Event(self.event.clone())]);
        }
        let _fuel = match self.gate.enter(connection) {
            Ok(fuel) => fuel,
            Err(stay) => return Chained::Stays(stay),
        };
        let chained = self.chain(connection, ran, made).await;
        self.gate.learn(ran.price);
        chained
    }

    async fn chain(&self, connection: &Connection, ran: &mut Ran, made: &mut Made) -> Chained {
        let pinned = self.event.pins.iter().find(|pin| pin.connection == connection.id);
        let mut current = vec![SharedRequest::Event(self.event.clone())];
        for (position, stage) in connection.chain.iter().enumerate() {
            // The chain may be another one by now: then the position names another plugin.
            let pinned = stage.version_for(pinned.and_then(|pin| pin.versions.get(position)).copied());
            let mut next = Vec::with_capacity(current.len());
            for (number, input) in (0..).zip(current) {
                made.room().await;
                let run = match self.gate.turn(connection, position, pinned) {
                    Turn::Run(run) => run,
                    Turn::PassThrough => {
                        next.push(input);
                        continue;
                    }
                    Turn::Stay(stay) => return Chained::Stays(stay),
                };
                let place = self.place(connection.id, stage, position, number);
                let (result, stay) = self.stage(connection, position, run, (place, &input), ran).await;
                if let Some(stay) = stay {
                    return Chained::Stays(stay);
                }
                match result {
                    Ok(None) => next.push(input),
                    Ok(Some(outputs)) => {
                        made.add(outputs.iter().map(Request::size).sum());
                        next.extend(outputs.into_iter().map(|request| SharedRequest::Made(Arc::new(request))));
                    }
                    Err(_) if stage.on_failure == OnFailure::PassThrough => next.push(input),
                    Err(failure) => return Chained::Failed { failure, policy: stage.on_failure },
                }
            }
            if next.is_empty() {
                return Chained::DroppedBy(stage.name.clone());
            }
            current = next;
        }
        Chained::Outputs(current)
    }

    /// Where a run stands in this event's plans.
    fn place(&self, connection: ConnectionId, stage: &Stage, position: usize, input: u32) -> Place {
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        Place { tenant: self.event.tenant, plugin: stage.plugin, event: self.event.id, connection, stage: position, input }
    }

    /// Runs one plugin on one request: `None` keeps the request as it is. Says too where the event waits if the plugin is poisoned now.
    async fn stage(
        &self,
        connection: &Connection,
        position: usize,
        Run { version, kind, is_try }: Run,
        (place, input): (Place, &SharedRequest),
        ran: &mut Ran,
    ) -> (Result<Option<Vec<Request>>, Failure>, Option<Stay>) {
        let stage = &connection.chain[position];
        let call = Call {
            tenant: self.event.tenant,
            version,
            event: self.event.id,
            accepted_at: self.event.accepted_at,
            request: input.clone(),
            config: stage.config.clone(),
            secrets: stage.secrets.clone(),
            limits: stage.limits.clone(),
            table: Table::live(place),
            reuse: stage.invocations.map(|invocations| Reuse { connection: connection.id, stage: place.stage, invocations }),
        };
        let started_at = self.shared.clock.now();
        // What is planned again was compared the first time, and a shadow is compared with the alias' own version.
        let split = stage.split.as_ref().filter(|_| self.past.attempts == 0 && !stage.is_canary(version));
        let shadow = split.and_then(|split| Some((split, split.shadow_for(self.event.id)?, call.clone())));
        let report = self.shared.plugins.ask(kind, call).await;
        let price = report.price();
        let Report { result, run, used_table, .. } = report;
        self.gate.pay(price);
        let stay = self.gate.ran(connection, position, is_try, &run, result.as_ref().err());
        let result = result.map_err(|error| error.to_failure());
        if let Some((split, portion, call)) = shadow {
            self.shared.shadows.offer(self.shared, &self.gate.gates.fuel, (split, portion), call, &result);
        }
        let track = if stage.is_canary(version) { Track::Canary } else { Track::Stable };
        self.shared.metrics.plugin_run(PluginOutcome { track, ..(&run).into() });
        self.shared.spans.plugin_run(self.event, connection.id, &stage.name, started_at, &run);
        ran.runs.push(run);
        ran.used_table |= used_table;
        ran.price = ran.price.saturating_add(price);
        (result, stay)
    }

    /// The outcome of a connection whose plugin failed.
    fn failed(&self, connection: &Connection, failure: Failure, policy: OnFailure) -> DeliveryRecord {
        let first = self.first(connection.id);
        if policy != OnFailure::Retry {
            return self.dead(first, Some(connection.id), failure);
        }
        let past = self.past.one_more();
        let history = History { attempts: past.spent, since: past.since };
        let outcome = Outcome::Failed { failure: &Failure { retryable: true, ..failure.clone() }, status: None, not_before: None };
        let state = match connection.retry.next(history, outcome, self.now, &mut rand::rng()) {
            Next::RetryAt(due) => DeliveryState::Scheduled { due },
            Next::DeadLetter(reason) => DeliveryState::DeadLettered { reason: reason.over(&failure) },
            Next::Done => DeliveryState::DeadLettered { reason: failure },
        };
        DeliveryRecord {
            job: Some(Box::new(past.job(first, self.work(Some(connection.id))))),
            ..self.row(first, Some(connection.id), state)
        }
    }

    /// Spans for what was given up without an attempt.
    fn tell_dead(&self, rows: &[DeliveryRecord]) {
        for row in rows {
            if let DeliveryState::DeadLettered { reason } = &row.state {
                self.shared.spans.dead_lettered(self.event.trace, row.connection, row.id, row.at, reason);
            }
        }
    }

    fn dead(&self, id: DeliveryId, connection: Option<ConnectionId>, reason: Failure) -> DeliveryRecord {
        let job = Some(Box::new(self.past.job(id, self.work(connection))));
        DeliveryRecord { job, ..self.row(id, connection, DeliveryState::DeadLettered { reason }) }
    }

    fn work(&self, connection: Option<ConnectionId>) -> Work {
        Work::Plan { event: Box::new(Event::clone(self.event)), connection }
    }

    fn row(&self, id: DeliveryId, connection: Option<ConnectionId>, state: DeliveryState) -> DeliveryRecord {
        DeliveryRecord {
            id,
            connection,
            destination: self.past.line.map(|line| line.destination),
            output: 0,
            at: self.now,
            state,
            attempts: Vec::new(),
            runs: Vec::new(),
            job: None,
        }
    }
}

impl Past {
    /// The job that goes on from here.
    pub(super) fn job(self, id: DeliveryId, work: Work) -> Job {
        Job { id, attempts: self.attempts, spent: self.spent, since: self.since, work, line: self.line, claims: 0 }
    }

    /// The same with one more attempt made.
    pub(super) fn one_more(self) -> Self {
        Self { attempts: self.attempts.saturating_add(1), spent: self.spent.saturating_add(1), ..self }
    }
}

fn unknown(what: &str, id: &impl std::fmt::Display) -> Failure {
    failure(Party::Gateway, &format!("unknown_{what}"), format!("{what} {id} does not exist any more"), false)
}

fn failure(party: Party, code: &str, detail: String, retryable: bool) -> Failure {
    Failure { party, code: code.to_owned(), detail, retryable }
}
