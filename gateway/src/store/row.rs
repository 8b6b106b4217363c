//! The stored form of an outcome, and how outcomes of one event merge into the rows that history shows.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{DeliveryRecord, DeliveryState, Job, Work};
use crate::clock::Timestamp;
use crate::event::{Attempt, ConnectionId, DeliveryId, DestinationId, Failure, PluginRun};

/// A [`DeliveryRecord`] as it is stored: without its job, and in a form that needs no field names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row<'a> {
    id: DeliveryId,
    connection: Option<ConnectionId>,
    destination: Option<DestinationId>,
    output: u32,
    at: Timestamp,
    state: State<'a>,
    attempts: Cow<'a, [Attempt]>,
    runs: Cow<'a, [PluginRun]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State<'a> {
    Delivered,
    Filtered(Cow<'a, str>),
    Unmatched,
    Scheduled(Timestamp),
    Parked(Cow<'a, str>),
    DeadLettered(Cow<'a, Failure>),
}

impl<'a> Row<'a> {
    pub(super) fn of(record: &'a DeliveryRecord) -> Self {
        let state = match &record.state {
            DeliveryState::Delivered => State::Delivered,
            DeliveryState::Filtered { by } => State::Filtered(Cow::Borrowed(by)),
            DeliveryState::Unmatched => State::Unmatched,
            DeliveryState::Scheduled { due } => State::Scheduled(*due),
            DeliveryState::Parked { reason, .. } => State::Parked(Cow::Borrowed(reason)),
            DeliveryState::DeadLettered { reason } => State::DeadLettered(Cow::Borrowed(reason)),
        };
        Self {
            id: record.id,
            connection: record.connection,
            destination: record.destination,
            output: record.output,
            at: record.at,
            state,
            attempts: Cow::Borrowed(&record.attempts),
            runs: Cow::Borrowed(&record.runs),
        }
    }

    pub(super) fn id(&self) -> DeliveryId {
        self.id
    }

    pub(super) fn into_record(self) -> DeliveryRecord {
        let state = match self.state {
            State::Delivered => DeliveryState::Delivered,
            State::Filtered(by) => DeliveryState::Filtered { by: by.into_owned() },
            State::Unmatched => DeliveryState::Unmatched,
            State::Scheduled(due) => DeliveryState::Scheduled { due },
            State::Parked(reason) => DeliveryState::Parked { reason: reason.into_owned(), queue: None },
            State::DeadLettered(reason) => DeliveryState::DeadLettered { reason: reason.into_owned() },
        };
        DeliveryRecord {
            id: self.id,
            connection: self.connection,
            destination: self.destination,
            output: self.output,
            at: self.at,
            state,
            attempts: self.attempts.into_owned(),
            runs: self.runs.into_owned(),
            job: None,
        }
    }
}

/// The record that says that a job is due `now`.
pub(super) fn shown(job: &Job, now: Timestamp) -> DeliveryRecord {
    let (connection, destination, output) = match &job.work {
        Work::Attempt(delivery) => (Some(delivery.connection), Some(delivery.destination), delivery.output),
        Work::Plan { connection, .. } => (*connection, None, 0),
    };
    DeliveryRecord {
        id: job.id,
        connection,
        destination,
        output,
        at: now,
        state: DeliveryState::Scheduled { due: now },
        attempts: Vec::new(),
        runs: Vec::new(),
        job: None,
    }
}

/// Adds a later outcome to the rows of its event: the state is the later one's, attempts and runs add up.
pub(super) fn merge(rows: &mut Vec<DeliveryRecord>, mut later: DeliveryRecord) {
    let Some(known) = rows.iter_mut().find(|known| known.id == later.id) else {
        rows.push(later);
        return;
    };
    let mut attempts = std::mem::take(&mut known.attempts);
    let mut runs = std::mem::take(&mut known.runs);
    attempts.append(&mut later.attempts);
    runs.append(&mut later.runs);
    *known = DeliveryRecord { attempts, runs, ..later };
}
