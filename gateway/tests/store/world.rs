//! What the tests say things with: one engine, events with recognisable content, and short forms of the store's calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::clock::Timestamp;
use tidegate::event::{
    Attempt, BatchId, BatchPart, ConnectionId, Delivery, DeliveryId, DestinationId, Event, EventId, Failure, Header, Lane, Party,
    Pin, PluginRun, Request, Revision, Shard, SourceId, TenantId, TraceContext, VersionHash,
};
use tidegate::ingest::verify::Verifier;
use tidegate::store::{
    Acceptance, Accepted, Budget, Claimed, DeadLetter, Dedup, DeliveryRecord, DeliveryState, Depth, EventHistory, EventSummary,
    Home, Job, Lease, Origin, PageRequest, QueueKey, Record, Store, StoreError, Suspects, Work,
};

use crate::fixture::Fixture;

pub(crate) const SHARD: Shard = Shard(3);
pub(crate) const OTHER_SHARD: Shard = Shard(4);
pub(crate) const TENANT: TenantId = TenantId(0xa);
pub(crate) const OTHER_TENANT: TenantId = TenantId(0xb);
pub(crate) const HOME: Home = Home { tenant: TENANT, shard: SHARD };
pub(crate) const ALL: Budget = Budget::new(1000, 64 << 20);
/// The same without a suspect.
pub(crate) const NO_SUSPECTS: Budget = Budget { suspects: Suspects::Left, ..ALL };
pub(crate) const TENANT_QUEUE: QueueKey = QueueKey::Tenant(TENANT);
pub(crate) const DESTINATION_QUEUE: QueueKey = QueueKey::Destination(TENANT, DestinationId(0xd));

/// An engine, and the events made so far.
pub(crate) struct World {
    pub(crate) fixture: Box<dyn Fixture>,
    made: u64,
}

impl World {
    pub(crate) fn new(fixture: impl Fixture + 'static) -> Self {
        Self { fixture: Box::new(fixture), made: 0 }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.fixture.store()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.fixture.now()
    }

    /// A small event of the first tenant. Ids grow with each.
    pub(crate) fn event(&mut self) -> Event {
        self.event_of(TENANT, Bytes::from(format!("body {}", self.made)))
    }

    pub(crate) fn event_of(&mut self, tenant: TenantId, body: Bytes) -> Event {
        self.made += 1;
        event(self.made, tenant, self.now(), body)
    }

    /// Accepts `count` small events of the first tenant into the normal lane of the first shard.
    pub(crate) async fn accept(&mut self, count: usize) -> Vec<Event> {
        let events: Vec<_> = (0..count).map(|_| self.event()).collect();
        self.accept_all(&events).await;
        events
    }

    pub(crate) async fn accept_one(&mut self) -> Event {
        self.accept(1).await.remove(0)
    }

    pub(crate) async fn accept_all(&self, events: &[Event]) {
        let batch = events.iter().map(acceptance).collect();
        let answers = self.store().accept(batch).await.unwrap();
        assert_eq!(repeats(answers), vec![None; events.len()]);
    }

    /// Takes the first shard for node `a`, which always works: it takes over from itself.
    pub(crate) async fn own(&self) -> Lease {
        self.store().acquire(SHARD, "a", self.fixture.span()).await.unwrap().expect("a node takes over from itself")
    }

    /// Lets the lease run out and takes the shard for another node.
    pub(crate) async fn take_over(&mut self, node: &str) -> Lease {
        let span = self.fixture.span();
        self.fixture.pass(span).await;
        eventually(async || self.store().acquire(SHARD, node, span).await.unwrap()).await
    }

    pub(crate) async fn claim(&self, lease: &Lease) -> Vec<Claimed> {
        self.store().claim(lease, Lane::Normal, ALL).await.unwrap()
    }

    pub(crate) async fn reclaim(&self, lease: &Lease) -> Vec<Claimed> {
        reclaim_all(&*self.store(), lease).await
    }

    /// Accepts one event and claims it.
    pub(crate) async fn claim_one(&mut self, lease: &Lease) -> Claimed {
        self.accept_one().await;
        let mut claimed = self.claim(lease).await;
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
    }

    pub(crate) async fn record(&self, lease: &Lease, batch: Vec<Record>) {
        self.store().record(lease, &batch).await.unwrap();
    }

    /// Accepts an event and finishes it with these outcomes.
    pub(crate) async fn settle(&mut self, lease: &Lease, outcome: impl FnOnce(&Event) -> Vec<DeliveryRecord>) -> Event {
        let claimed = self.claim_one(lease).await;
        let deliveries = outcome(&claimed.event);
        self.record(lease, vec![finish(&claimed, deliveries)]).await;
        claimed.event
    }

    /// What is due, as it was scheduled.
    pub(crate) async fn due(&self, lease: &Lease, now: Timestamp) -> Vec<Job> {
        uncounted(self.store().due(lease, now, ALL).await.unwrap())
    }

    /// What stands in a queue, as it was parked.
    pub(crate) async fn unpark(&self, lease: &Lease, queue: QueueKey) -> Vec<Job> {
        uncounted(self.store().unpark(lease, queue, ALL).await.unwrap().jobs)
    }

    pub(crate) async fn history(&self, id: EventId) -> EventHistory {
        self.store().event(HOME, id).await.unwrap().expect("the event is known")
    }

    pub(crate) async fn summary(&self, id: EventId) -> EventSummary {
        self.history(id).await.summary
    }

    /// The states of an event's deliveries, by delivery id.
    pub(crate) async fn states(&self, id: EventId) -> Vec<DeliveryState> {
        let mut rows = self.summary(id).await.deliveries;
        rows.sort_by_key(|row| row.id);
        rows.into_iter().map(|row| row.state).collect()
    }

    pub(crate) async fn dead(&self) -> Vec<DeadLetter> {
        self.store().dead_letters(HOME, PageRequest { before: None, limit: 200 }).await.unwrap().items
    }

    /// Bytes that the first tenant has queued in the first shard.
    pub(crate) async fn queued(&self) -> u64 {
        self.store().queued_bytes(HOME).await.unwrap()
    }

    pub(crate) async fn depth(&self) -> Depth {
        self.store().depth(SHARD).await.unwrap()
    }

    /// Unfinished entries of the normal lane, scheduled, parked, dead letters.
    pub(crate) async fn counts(&self) -> [u64; 4] {
        let depth = self.depth().await;
        let normal = depth.lanes.iter().find(|lane| lane.lane == Lane::Normal).expect("every lane is listed");
        [normal.entries, depth.scheduled, depth.parked, depth.dead_letters]
    }
}

/// For each answer the first event, if it is a duplicate's.
pub(crate) fn repeats(answers: Vec<Accepted>) -> Vec<Option<EventId>> {
    let first = |answer| if let Accepted::Duplicate(first) = answer { Some(first) } else { None };
    answers.into_iter().map(first).collect()
}

/// Asks until there is an answer, for at most ten seconds.
pub(crate) async fn eventually<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asking).await.expect("an answer within ten seconds")
}

/// Event number `number`, made at `now`. The same arguments give the same event.
pub(crate) fn event(number: u64, tenant: TenantId, now: Timestamp, body: Bytes) -> Event {
    Event {
        id: EventId::new(now, (u128::from(number) << 16) | tenant.0),
        tenant,
        source: SourceId(0x50 + tenant.0),
        revision: Revision(number),
        accepted_at: now,
        request: Request {
            method: "POST".into(),
            path: format!("/{number}"),
            query: Some("a=1&a=2".into()),
            headers: vec![
                Header { name: "x-repeated".into(), value: Bytes::from_static(b"one\xff") },
                Header { name: "x-repeated".into(), value: Bytes::from_static(b"two") },
            ],
            body,
        },
        pins: vec![Pin { connection: ConnectionId(1), versions: vec![VersionHash([7; 32])] }],
        trace: Some(TraceContext { trace_id: 8, span_id: 9, sampled: true }),
    }
}

pub(crate) fn acceptance(event: &Event) -> Acceptance {
    let event = Verifier::none().verify(event.clone(), event.accepted_at).unwrap();
    Acceptance { event, shard: SHARD, lane: Lane::Normal, dedup: None }
}

pub(crate) fn once(event: &Event, key: u8, window: Duration) -> Acceptance {
    Acceptance { dedup: Some(Dedup { key: [key; 32], window }), ..acceptance(event) }
}

/// The id of the event's delivery on connection 1.
pub(crate) fn delivery_id(event: &Event, output: u32) -> DeliveryId {
    DeliveryId::derive(event.id, ConnectionId(1), output)
}

/// A frozen request of the event on connection 1.
pub(crate) fn job(event: &Event, output: u32, attempts: u32) -> Job {
    let delivery = Delivery {
        id: delivery_id(event, output),
        event: event.id,
        tenant: event.tenant,
        connection: ConnectionId(1),
        destination: DestinationId(0xd),
        output,
        accepted_at: event.accepted_at,
        request: Request { path: "/out".into(), body: event.request.body.clone(), ..event.request.clone() },
        trace: event.trace,
    };
    let work = Work::Attempt(Box::new(delivery));
    Job { id: delivery_id(event, output), attempts, spent: attempts, since: event.accepted_at, work, line: None, claims: 0 }
}

/// A plan of the event on all its connections, as it is parked before planning.
pub(crate) fn plan(event: &Event) -> Job {
    Job {
        id: DeliveryId::derive(event.id, ConnectionId(0), 0),
        attempts: 0,
        spent: 0,
        since: event.accepted_at,
        work: Work::Plan { event: Box::new(event.clone()), connection: None },
        line: None,
        claims: 0,
    }
}

/// An outcome of the event's delivery on connection 1, decided when the event was accepted.
pub(crate) fn outcome(event: &Event, output: u32, state: DeliveryState) -> DeliveryRecord {
    DeliveryRecord {
        id: delivery_id(event, output),
        connection: Some(ConnectionId(1)),
        destination: Some(DestinationId(0xd)),
        output,
        at: event.accepted_at,
        state,
        attempts: Vec::new(),
        runs: Vec::new(),
        job: None,
    }
}

pub(crate) fn delivered(event: &Event, output: u32) -> DeliveryRecord {
    outcome(event, output, DeliveryState::Delivered)
}

/// Scheduled after its `attempts`th attempt failed.
pub(crate) fn scheduled(event: &Event, output: u32, due: Timestamp, attempts: u32) -> DeliveryRecord {
    DeliveryRecord {
        attempts: (attempts > 0).then(|| attempt(event, attempts)).into_iter().collect(),
        job: Some(Box::new(job(event, output, attempts))),
        ..outcome(event, output, DeliveryState::Scheduled { due })
    }
}

pub(crate) fn parked(event: &Event, output: u32, queue: QueueKey) -> DeliveryRecord {
    let state = DeliveryState::Parked { reason: "destination_window".into(), queue: Some(queue) };
    DeliveryRecord { job: Some(Box::new(job(event, output, 0))), ..outcome(event, output, state) }
}

pub(crate) fn dead(event: &Event, output: u32, at: Timestamp) -> DeliveryRecord {
    let state = DeliveryState::DeadLettered { reason: failure() };
    DeliveryRecord { at, job: Some(Box::new(job(event, output, 5))), ..outcome(event, output, state) }
}

/// The record of a whole event that is parked before planning.
pub(crate) fn parked_plan(event: &Event, queue: QueueKey) -> DeliveryRecord {
    let job = plan(event);
    let state = DeliveryState::Parked { reason: "tenant_window".into(), queue: Some(queue) };
    DeliveryRecord { id: job.id, connection: None, destination: None, job: Some(Box::new(job)), ..outcome(event, 0, state) }
}

pub(crate) fn failure() -> Failure {
    Failure { party: Party::Destination, code: "status".into(), detail: "answered 500".into(), retryable: true }
}

pub(crate) fn attempt(event: &Event, number: u32) -> Attempt {
    Attempt {
        number,
        started_at: event.accepted_at.after(Duration::from_secs(number.into())),
        took_us: 1000,
        status: Some(500),
        response: Bytes::from_static(b"no\0"),
        response_cut: false,
        failure: Some(failure()),
        // Some go out with others.
        batch: number.is_multiple_of(2).then(|| BatchPart { id: BatchId(number.into()), size: number }),
    }
}

pub(crate) fn run(outputs: u32) -> PluginRun {
    PluginRun { version: VersionHash([7; 32]), fuel: 1, memory: 2, took_us: 3, outcome: Ok(outputs), logs: vec!["a line".into()] }
}

/// The claimed entry is done, with these outcomes.
pub(crate) fn finish(claimed: &Claimed, deliveries: Vec<DeliveryRecord>) -> Record {
    Record { finished: true, ..progress(claimed, deliveries) }
}

/// The claimed entry goes on, and these of its deliveries are decided.
pub(crate) fn progress(claimed: &Claimed, deliveries: Vec<DeliveryRecord>) -> Record {
    let Claimed { ticket, event, .. } = claimed;
    Record { origin: Origin::Entry(*ticket), event: event.id, tenant: event.tenant, finished: false, deliveries }
}

/// The job is done, with these outcomes.
pub(crate) fn finish_job(job: &Job, deliveries: Vec<DeliveryRecord>) -> Record {
    Record { origin: Origin::Job(job.id), event: job.event(), tenant: job.tenant(), finished: true, deliveries }
}

pub(crate) fn ids<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<EventId> {
    events.into_iter().map(|event| event.id).collect()
}

pub(crate) fn claimed_ids(claimed: &[Claimed]) -> Vec<EventId> {
    claimed.iter().map(|claimed| claimed.event.id).collect()
}

fn uncounted(jobs: Vec<Job>) -> Vec<Job> {
    jobs.into_iter().map(|job| Job { claims: 0, ..job }).collect()
}

/// Which events' jobs were handed out, and how often each by now.
pub(crate) fn counts_of(jobs: &[Job]) -> Vec<(EventId, u32)> {
    jobs.iter().map(|job| (job.event(), job.claims)).collect()
}

pub(crate) fn job_events(jobs: &[Job]) -> Vec<EventId> {
    jobs.iter().map(Job::event).collect()
}

/// What a listing shows of the queue: nothing. The key of a parked state is not kept in history.
pub(crate) fn shown_parked(reason: &str) -> DeliveryState {
    DeliveryState::Parked { reason: reason.into(), queue: None }
}

pub(crate) fn is_suspect<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Suspect(SHARD)))
}

pub(crate) fn is_fenced<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Fenced(SHARD)))
}

/// All that is claimed and not finished: suspects come one by one.
pub(crate) async fn reclaim_all(store: &dyn Store, lease: &Lease) -> Vec<Claimed> {
    let mut found = Vec::<Claimed>::new();
    loop {
        let held = found.iter().map(|claimed| claimed.ticket).collect();
        let more = store.reclaim(lease, &held, ALL).await.unwrap();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}
