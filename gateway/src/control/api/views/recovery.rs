//! Dead letters, and jobs over them.

use serde::Serialize;
use utoipa::ToSchema;

use super::{AttemptView, FailureView, shown};
use crate::control::recovery::events::EndState;
use crate::control::recovery::job::Holdup;
use crate::control::recovery::{EventFilter, Job, JobState, LetterFilter};
use crate::event::Party;
use crate::store::{DeadLetter, Work};

/// A delivery that was given up.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterView {
    /// The delivery's id, to retry it by.
    id: String,
    event: String,
    /// Null if the event could not be planned at all.
    connection: Option<String>,
    destination: Option<String>,
    attempts: u32,
    at: String,
    reason: FailureView,
    /// The attempt after which it was given up, with at most 1 KiB of the response; null if it was given up without one.
    last_attempt: Option<AttemptView>,
}

impl DeadLetterView {
    pub(in crate::control::api) fn of(letter: &DeadLetter) -> Self {
        let (connection, destination) = match &letter.job.work {
            Work::Attempt(delivery) => (Some(delivery.connection), Some(delivery.destination)),
            Work::Plan { connection, .. } => (*connection, None),
        };
        Self {
            id: letter.job.id.to_string(),
            event: letter.job.event().to_string(),
            connection: connection.map(|id| id.to_string()),
            destination: destination.map(|id| id.to_string()),
            attempts: letter.job.attempts,
            at: shown(letter.at),
            reason: FailureView::of(&letter.reason),
            last_attempt: letter.last.as_ref().map(AttemptView::of),
        }
    }
}

/// How many were put back to be tried again.
#[derive(Debug, Serialize, ToSchema)]
pub struct RetriedView {
    pub(in crate::control::api) retried: u64,
}

/// A job that tries dead letters again.
#[derive(Debug, Serialize, ToSchema)]
pub struct RetryJobView {
    id: String,
    created_at: String,
    /// Who asked for it.
    by: String,
    filter: LetterFilterView,
    /// Dead letters a second, at most.
    rate: u32,
    /// Whether it only counts.
    dry_run: bool,
    state: JobState,
    /// Whether it is to end and has not yet.
    cancelling: bool,
    /// What holds it up for now.
    held_up_by: Option<Holdup>,
    /// Why it failed.
    failure: Option<String>,
    /// Dead letters looked at.
    examined: u64,
    /// Of them those that the filter means.
    matched: u64,
    /// Put back to be tried again; what becomes of them is in their events' history.
    retried: u64,
    /// Not dead letters any more when their turn came: retried by hand, or gone by age.
    gone: u64,
    /// When its progress was noted last; null if it has not begun.
    noted_at: Option<String>,
}

/// Which dead letters a job means: all for which all that is given holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct LetterFilterView {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    party: Option<Party>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

impl LetterFilterView {
    fn of(filter: &LetterFilter) -> Self {
        let LetterFilter { source, destination, connection, since, until, code, party, status } = filter;
        Self {
            source: source.map(|id| id.to_string()),
            destination: destination.map(|id| id.to_string()),
            connection: connection.map(|id| id.to_string()),
            since: since.map(shown),
            until: until.map(shown),
            code: code.clone(),
            party: *party,
            status: *status,
        }
    }
}

impl RetryJobView {
    pub(in crate::control::api) fn of(job: &Job) -> Self {
        let Job { order, progress, cancelled } = job;
        Self {
            id: order.id.to_string(),
            created_at: shown(order.created_at),
            by: order.by.clone(),
            filter: LetterFilterView::of(&order.filter),
            rate: order.rate,
            dry_run: order.dry_run,
            state: progress.state,
            cancelling: *cancelled && !progress.is_over(),
            held_up_by: progress.held_up_by,
            failure: progress.failure.clone(),
            examined: progress.examined,
            matched: progress.matched,
            retried: progress.retried,
            gone: progress.gone,
            noted_at: (progress.at.0 > 0).then(|| shown(progress.at)),
        }
    }
}

/// A job that replays events over a connection.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayJobView {
    id: String,
    created_at: String,
    /// Who asked for it.
    by: String,
    connection: String,
    filter: EventFilterView,
    /// Events a second, at most.
    rate: u32,
    /// Whether it only counts.
    dry_run: bool,
    state: JobState,
    /// Whether it is to end and has not yet.
    cancelling: bool,
    /// What holds it up for now.
    held_up_by: Option<Holdup>,
    /// Why it failed.
    failure: Option<String>,
    /// Events looked at.
    examined: u64,
    /// Of them those that the filter means.
    matched: u64,
    /// Put on the schedule for the connection; what becomes of them is in the events' history.
    replayed: u64,
    /// Gone from history when their turn came, or replayed by this job before.
    gone: u64,
    /// When its progress was noted last; null if it has not begun.
    noted_at: Option<String>,
}

/// Which events a job means: all for which all that is given holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventFilterView {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    state: Option<EndState>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ids: Vec<String>,
}

impl EventFilterView {
    fn of(filter: &EventFilter) -> Self {
        let EventFilter { source, since, until, state, ids } = filter;
        Self {
            source: Some(source.to_string()),
            since: since.map(shown),
            until: until.map(shown),
            state: *state,
            ids: ids.iter().map(ToString::to_string).collect(),
        }
    }

    fn none() -> Self {
        Self { source: None, since: None, until: None, state: None, ids: Vec::new() }
    }
}

impl ReplayJobView {
    pub(in crate::control::api) fn of(job: &Job) -> Self {
        let Job { order, progress, cancelled } = job;
        let replay = order.replay.as_ref();
        Self {
            id: order.id.to_string(),
            created_at: shown(order.created_at),
            by: order.by.clone(),
            connection: replay.map(|replay| replay.connection.to_string()).unwrap_or_default(),
            filter: replay.map_or_else(EventFilterView::none, |replay| EventFilterView::of(&replay.events)),
            rate: order.rate,
            dry_run: order.dry_run,
            state: progress.state,
            cancelling: *cancelled && !progress.is_over(),
            held_up_by: progress.held_up_by,
            failure: progress.failure.clone(),
            examined: progress.examined,
            matched: progress.matched,
            replayed: progress.retried,
            gone: progress.gone,
            noted_at: (progress.at.0 > 0).then(|| shown(progress.at)),
        }
    }
}
