//! A job that tries many dead letters again, as the store keeps it.
//!
//! Under a topic of its tenant ([`Store::say`]) there are up to three notes for each job, each with one writer, so that none needs to be
//! compared before it is set: what is to be done, by whoever asked; how far it is, by the owner of the tenant's home shard; and
//! that it is to end, by whoever cancels it. A topic of all tenants names the jobs that are not over: it is all that
//! owners have to look at.
//!
//! # How a job survives a crash
//! It goes from the oldest dead letter to the newest that there was when it was asked for, shard by shard. Before a batch is put back its ids
//! are noted with the place to go on from, together with the counts of what came before. Whoever takes the job over puts the
//! noted batch back once more, which moves only what is a dead letter still, and counts all of it as retried. What
//! fails again meanwhile becomes a dead letter that is newer than the job, which it does not meet again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::events::Replay;
use super::filter::{LetterFilter, LetterFilterSpec};
use crate::clock::Timestamp;
use crate::event::{DeliveryId, EventId, JobId, TenantId};
use crate::store::{Store, StoreError};

/// Jobs of one tenant that may be under way at once.
pub const MAX_JOBS: usize = 4;
/// Jobs of one tenant that are kept, those under way among them; the oldest that are over go first.
pub const MAX_JOBS_KEPT: usize = 20;
/// How long a job is kept after its last step.
pub const JOB_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Dead letters a second of a job that says nothing of it.
pub const DEFAULT_RATE: u32 = 100;
/// The highest rate.
pub const MAX_RATE: u32 = 100_000;

/// The topic that names the jobs which are not over.
const OPEN: &str = "retry-jobs";
/// The format of what is kept.
const FORMAT: u8 = 1;
/// Of orders that replay events: a release that knows of none leaves them alone.
const REPLAYS: u8 = 2;
/// The shortest time to live: it takes a note away.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What to try again.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobSpec {
    /// Which dead letters; all when left out.
    pub filter: LetterFilterSpec,
    /// Dead letters a second, at most the tenant's `plan.rate`. Default 100.
    #[schema(minimum = 1, maximum = 100_000)]
    pub rate: Option<u32>,
    /// Only counts them.
    pub dry_run: bool,
}

/// What a job has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub id: JobId,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// By whom.
    pub by: String,
    /// Which dead letters.
    pub filter: LetterFilter,
    /// Dead letters a second.
    pub rate: u32,
    /// Whether it only counts.
    pub dry_run: bool,
    /// The newest dead letter that each of the tenant's shards had then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newest: Vec<Option<(Timestamp, DeliveryId)>>,
    /// Events to replay, instead of dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

/// What jobs go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Dead letters.
    Retry,
    /// Events.
    Replay,
}

impl Order {
    /// What it goes over.
    pub fn kind(&self) -> JobKind {
        if self.replay.is_some() { JobKind::Replay } else { JobKind::Retry }
    }

    fn format(&self) -> u8 {
        match self.kind() {
            JobKind::Retry => FORMAT,
            JobKind::Replay => REPLAYS,
        }
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It is worked on, or will be.
    #[default]
    Running,
    /// It has come to its end.
    Done,
    /// It was cancelled.
    Cancelled,
    /// It can't go on.
    Failed,
}

/// What holds a job up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Holdup {
    /// The gateway has too much to do: what can wait yields.
    Overload,
    /// Half of the tenant's `plan.queued_bytes` is queued: the rest is for what comes in.
    QueuedBytes,
    /// An operator paused retries.
    RetriesPaused,
    /// The store is away.
    Store,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Where it stands.
    pub state: JobState,
    /// Dead letters looked at.
    pub examined: u64,
    /// Of them those that are meant.
    pub matched: u64,
    /// Put back, to be tried again.
    pub retried: u64,
    /// Not dead letters any more when their turn came: retried by hand, or gone by age.
    pub gone: u64,
    /// What holds it up.
    pub held_up_by: Option<Holdup>,
    /// Why it failed.
    pub failure: Option<String>,
    /// When this was noted.
    pub at: Timestamp,
    /// Which of the tenant's shards it is at, by its place among them.
    pub shard: usize,
    /// Behind which place it goes on in that shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<(Timestamp, DeliveryId)>,
    /// What is being put back, in order: counted in `matched`, not in `retried`.
    pub batch: Vec<DeliveryId>,
    /// Whether some of it goes into lines, so that each is due after the one before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_order: bool,
    /// The same of a replay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventId>,
    /// Where a replay goes on in its shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_event: Option<EventId>,
}

impl Progress {
    /// Whether nothing more happens.
    pub fn is_over(&self) -> bool {
        self.state != JobState::Running
    }

    /// How many are being put back.
    pub fn in_batch(&self) -> usize {
        self.batch.len() + self.events.len()
    }
}

/// A job with all that is known of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it has to do.
    pub order: Order,
    /// How far it is; as at its beginning if nobody has taken it up.
    pub progress: Progress,
    /// Whether it is to end.
    pub cancelled: bool,
}

/// A job that is not over, as owners find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub job: JobId,
    /// When it was asked for.
    pub created_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Note {
    Order(Order),
    Progress { job: JobId, progress: Progress },
    Cancel { job: JobId },
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u8,
    #[serde(flatten)]
    value: T,
}

fn write(v: u8, value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(&Versioned { v, value }).expect("plain data"))
}

/// None of what a newer release wrote: it works on that itself.
fn read<T: serde::de::DeserializeOwned>(note: &[u8]) -> Option<T> {
    let note: Versioned<T> = serde_json::from_slice(note).ok()?;
    (note.v <= REPLAYS).then_some(note.value)
}

fn topic(tenant: TenantId) -> String {
    format!("{OPEN}/{tenant}")
}

/// A tenant's jobs, newest first.
pub async fn jobs(store: &dyn Store, tenant: TenantId) -> Result<Vec<Job>, StoreError> {
    let mut jobs = BTreeMap::new();
    let (mut progresses, mut cancelled) = (Vec::new(), Vec::new());
    for note in store.said(&topic(tenant)).await? {
        match read(&note) {
            Some(Note::Order(order)) => {
                let job = Job { order, progress: Progress::default(), cancelled: false };
                jobs.insert(job.order.id, job);
            }
            Some(Note::Progress { job, progress }) => progresses.push((job, progress)),
            Some(Note::Cancel { job }) => cancelled.push(job),
            None => {}
        }
    }
    for (id, progress) in progresses {
        if let Some(job) = jobs.get_mut(&id) {
            job.progress = progress;
        }
    }
    for id in cancelled {
        if let Some(job) = jobs.get_mut(&id) {
            job.cancelled = true;
        }
    }
    Ok(jobs.into_values().rev().collect())
}

/// One of a tenant's jobs.
pub async fn job(store: &dyn Store, tenant: TenantId, id: JobId) -> Result<Option<Job>, StoreError> {
    Ok(jobs(store, tenant).await?.into_iter().find(|job| job.order.id == id))
}

/// The jobs of all tenants that are not over.
pub async fn open(store: &dyn Store) -> Result<Vec<Open>, StoreError> {
    Ok(store.said(OPEN).await?.iter().filter_map(|note| read(note)).collect())
}

/// Begins a job. It is named as open first: what is named and not there is passed over, what is there and not named would never begin.
pub(super) async fn begin(store: &dyn Store, tenant: TenantId, order: &Order) -> Result<(), StoreError> {
    let open = Open { tenant, job: order.id, created_at: order.created_at };
    store.say(OPEN, &order.id.to_string(), write(order.format(), &open), JOB_AGE).await?;
    let note = write(order.format(), &Note::Order(order.clone()));
    store.say(&topic(tenant), &format!("{}/order", order.id), note, JOB_AGE).await
}

/// Asks for a job's end.
pub(super) async fn cancel(store: &dyn Store, tenant: TenantId, id: JobId) -> Result<(), StoreError> {
    store.say(&topic(tenant), &format!("{id}/cancel"), write(FORMAT, &Note::Cancel { job: id }), JOB_AGE).await
}

/// Notes how far a job is. For who works on it.
pub async fn note(store: &dyn Store, tenant: TenantId, id: JobId, progress: &Progress) -> Result<(), StoreError> {
    let note = Note::Progress { job: id, progress: progress.clone() };
    store.say(&topic(tenant), &format!("{id}/progress"), write(FORMAT, &note), JOB_AGE).await
}

/// Keeps what a job has to do, and its name among the open ones, for another while. For who takes it up.
pub async fn keep(store: &dyn Store, tenant: TenantId, order: &Order) -> Result<(), StoreError> {
    begin(store, tenant, order).await
}

/// Takes a job's name from the open ones: it is over.
pub async fn close(store: &dyn Store, id: JobId) -> Result<(), StoreError> {
    store.say(OPEN, &id.to_string(), Bytes::new(), AT_ONCE).await
}

/// Takes away all that is kept of a job.
pub async fn forget(store: &dyn Store, tenant: TenantId, id: JobId) -> Result<(), StoreError> {
    for part in ["order", "progress", "cancel"] {
        store.say(&topic(tenant), &format!("{id}/{part}"), Bytes::new(), AT_ONCE).await?;
    }
    close(store, id).await
}
