use std::collections::HashMap;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::event::{DeliveryId, EventId, Shard, decode, decode_event, encode};
use crate::store::embedded::command::{Move, Note, Target, counted};
use crate::store::embedded::disk::Tree;
use crate::store::embedded::keys::{self, LogKey};
use crate::store::embedded::rows::{End, Outcome, Place, Spot, Story, Waiting};
use crate::store::embedded::state::{InHand, State};
use crate::store::row::Row;
use crate::store::{DeliveryRecord, DeliveryState, Home, Lease, Origin, StoreError, Ticket};

use super::Committer;

impl Committer {
    pub(super) fn record(&mut self, lease: &Lease, batch: Vec<Note>) -> Result<(), StoreError> {
        let cell = self.cell(lease.shard);
        let mut state = cell.owned(lease)?;
        for note in batch {
            if self.is_new(&state, &note) {
                self.write_note(&mut state, note);
            }
        }
        Ok(())
    }

    /// Whether the note's origin is in the owner's hands and the note was not written before.
    fn is_new(&mut self, state: &State, note: &Note) -> bool {
        match note.origin {
            Origin::Entry(ticket) => {
                let lane = &state.lanes[keys::lane_index(ticket.lane)];
                let Some(entry) = lane.claimed.get(&ticket.major).filter(|entry| entry.event == note.event) else { return false };
                !entry.progressed || !self.is_known(note)
            }
            Origin::Job(id) => {
                let Some(taken) = state.taken.get(&id).filter(|_| !state.leaving.contains(&id)) else { return false };
                note.last_attempt.is_none_or(|number| number > taken.attempts) && (note.finished || !self.is_known(note))
            }
        }
    }

    fn is_known(&mut self, note: &Note) -> bool {
        let Some(Outcome { rows, .. }) = self.sound(decode(&note.outcome).map_err(StoreError::from)) else { return false };
        let story = self.story(note.tenant, note.event);
        !rows.is_empty() && rows.iter().all(|row| story.stored.contains(row))
    }

    fn write_note(&mut self, state: &mut State, note: Note) {
        let is_listed = match note.origin {
            Origin::Entry(_) => {
                self.account_entry(state, &note);
                true
            }
            Origin::Job(_) => self.account_job(state, &note),
        };
        self.end_origin(state, &note);
        let Note { tenant, event, outcome, moves, .. } = note;
        for work in moves {
            self.put_work(state, work);
        }
        if is_listed {
            let n = self.serial();
            self.put(Tree::History, keys::history(tenant, event, n), outcome.clone());
            self.unit.stories.entry(event).or_default().push((n, outcome));
        }
    }

    /// Counts an entry's event into history if this note makes it terminal. The usual case needs no look at the disk: the first
    /// outcome of an entry that ends it with nothing left to do.
    fn account_entry(&mut self, state: &mut State, note: &Note) {
        let Origin::Entry(ticket) = note.origin else { return };
        let Some(entry) = state.lane(ticket.lane).claimed.get_mut(&ticket.major) else { return };
        if !note.finished {
            entry.progressed = true;
            return;
        }
        if !entry.progressed {
            if note.is_terminal {
                state.ledger.history_bytes += u64::from(entry.bytes) + note.outcome.len() as u64;
            }
            return;
        }
        let after = self.story_with(note);
        if after.is_terminal() {
            state.ledger.history_bytes += after.bytes();
        }
    }

    /// Counts a job's event in or out of history. Whether it still has a history.
    fn account_job(&mut self, state: &mut State, note: &Note) -> bool {
        let before = self.story(note.tenant, note.event);
        if before.listed.is_none() {
            return false;
        }
        if before.is_terminal() {
            state.ledger.history_bytes = state.ledger.history_bytes.saturating_sub(before.bytes());
        }
        let after = self.story_with(note);
        if after.is_terminal() {
            state.ledger.history_bytes += after.bytes();
        }
        true
    }

    fn story_with(&mut self, note: &Note) -> Story {
        let mut story = self.story(note.tenant, note.event);
        let added = story.add(u64::MAX, &note.outcome);
        self.sound(added);
        story
    }

    fn end_origin(&mut self, state: &mut State, note: &Note) {
        if !note.finished {
            return;
        }
        match note.origin {
            Origin::Entry(ticket) => {
                let Some(entry) = state.lane(ticket.lane).claimed.remove(&ticket.major) else { return };
                if entry.claims > 1 {
                    self.remove(Tree::Index, keys::claims(state.shard, ticket.lane, ticket.major));
                }
                let size = entry.size.or_else(|| self.size_of(state.shard, ticket, &entry));
                state.queued.take(entry.tenant, size.unwrap_or(0));
            }
            Origin::Job(id) => self.take_away(state, id),
        }
    }

    /// The size of an entry that was claimed before the store was opened, and not handed out since.
    fn size_of(&mut self, shard: Shard, ticket: Ticket, entry: &InHand) -> Option<u32> {
        let at = LogKey { shard, lane: ticket.lane, seq: ticket.major, tenant: entry.tenant, event: entry.event };
        let read = self.shared.disk.get(Tree::Log, &at.encode());
        let record = self.sound(read).flatten()?;
        let event = self.sound(decode_event(&Bytes::from_owner(record)).map_err(StoreError::from))?;
        Some(counted(event.request.size()))
    }

    /// Removes a job from wherever it is, if it is anywhere.
    pub(super) fn take_away(&mut self, state: &mut State, id: DeliveryId) {
        let Some(waiting) = self.read::<Waiting>(&keys::waiting(state.shard, id)) else { return };
        self.leave(state, id, &waiting);
        self.remove(Tree::Index, keys::waiting(state.shard, id));
        self.remove(Tree::Jobs, keys::job(state.shard, id));
    }

    /// Removes a job's place, and keeps readers from it until that is written.
    fn leave(&mut self, state: &mut State, id: DeliveryId, waiting: &Waiting) {
        let is_taken = state.taken.contains_key(&id) && !state.leaving.contains(&id);
        let shard = state.shard;
        match &waiting.place {
            Place::Scheduled(due) => {
                state.ledger.scheduled -= 1;
                self.remove(Tree::Index, keys::schedule(shard, *due, id));
            }
            Place::Parked(queue, seq) => {
                state.ledger.parked -= 1;
                if !is_taken {
                    state.wait_no_more(*queue);
                }
                self.remove(Tree::Index, keys::queued(shard, *queue, *seq));
            }
            Place::Lined(spot) => {
                state.ledger.parked -= 1;
                if !is_taken {
                    state.wait_no_more(spot.queue);
                }
                self.remove(Tree::Index, keys::lined(shard, spot.queue, spot.line, spot.place, id));
                self.unit.lines.entry((shard, spot.queue, spot.line)).or_default().left(spot.place, id);
            }
            Place::Dead { at, .. } => {
                state.ledger.dead -= 1;
                self.remove(Tree::Index, keys::dead(shard, waiting.tenant, *at, id));
                self.remove(Tree::Index, keys::dead_age(shard, *at, id));
            }
        }
        if waiting.is_queued() {
            self.remove(Tree::Index, keys::taken(shard, id));
            state.queued.take(waiting.tenant, waiting.bytes);
        }
        state.leaving.insert(id);
        self.unit.moved.push((shard, id));
    }

    fn put_work(&mut self, state: &mut State, work: Move) {
        self.take_away(state, work.id);
        let Move { id, to, tenant, event, attempts, spent, since, bytes, work } = work;
        let place = match to {
            Target::Schedule(due) => Place::Scheduled(due),
            Target::Queue(queue) => Place::Parked(queue, self.serial()),
            Target::Dead { at, reason } => Place::Dead { at, reason },
            Target::Line { queue, line, output, due } => {
                Place::Lined(Spot { queue, line: line.key, place: line.place_of(output, || self.serial()), due })
            }
        };
        self.put(Tree::Jobs, keys::job(state.shard, id), work);
        self.arrive(state, id, Waiting { place, tenant, event, attempts, spent, since, bytes });
    }

    fn arrive(&mut self, state: &mut State, id: DeliveryId, waiting: Waiting) {
        let shard = state.shard;
        if waiting.is_queued() {
            state.queued.add(waiting.tenant, waiting.bytes);
        }
        match &waiting.place {
            Place::Scheduled(due) => {
                state.ledger.scheduled += 1;
                state.schedule.insert(*due);
                self.put(Tree::Index, keys::schedule(shard, *due, id), encode(&()));
                self.unit.wake.insert(shard);
            }
            Place::Parked(queue, seq) => {
                state.ledger.parked += 1;
                state.wait(*queue, *seq);
                self.put(Tree::Index, keys::queued(shard, *queue, *seq), encode(&id));
            }
            Place::Lined(spot) => {
                state.ledger.parked += 1;
                state.wait(spot.queue, 0);
                self.put(Tree::Index, keys::lined(shard, spot.queue, spot.line, spot.place, id), encode(&()));
                self.unit.lines.entry((shard, spot.queue, spot.line)).or_default().came(spot.place, id);
            }
            Place::Dead { at, .. } => {
                state.ledger.dead += 1;
                self.put(Tree::Index, keys::dead(shard, waiting.tenant, *at, id), encode(&()));
                self.put(Tree::Index, keys::dead_age(shard, *at, id), encode(&()));
            }
        }
        self.put(Tree::Index, keys::waiting(shard, id), encode(&waiting));
    }

    pub(super) fn retry(&mut self, home: Home, each: Vec<(DeliveryId, Timestamp)>) -> u64 {
        let cell = self.cell(home.shard);
        let mut state = cell.state();
        let each: HashMap<_, _> = each.into_iter().collect();
        each.into_iter().map(|(id, due)| u64::from(self.retry_one(&mut state, home, id, due))).sum()
    }

    fn retry_one(&mut self, state: &mut State, home: Home, id: DeliveryId, due: Timestamp) -> bool {
        let waiting = self.read::<Waiting>(&keys::waiting(home.shard, id)).filter(|waiting| waiting.tenant == home.tenant);
        let Some(waiting) = waiting.filter(|waiting| matches!(waiting.place, Place::Dead { .. })) else { return false };
        self.leave(state, id, &waiting);
        let event = waiting.event;
        self.arrive(state, id, Waiting { place: Place::Scheduled(due), spent: 0, since: due, ..waiting });
        state.revivals += 1;

        let story = self.story(home.tenant, event);
        let Some(row) = story.rows.iter().find(|row| row.id == id).filter(|_| story.listed.is_some()) else { return true };
        if story.is_terminal() {
            state.ledger.history_bytes = state.ledger.history_bytes.saturating_sub(story.bytes());
        }
        let row = DeliveryRecord {
            at: due,
            state: DeliveryState::Scheduled { due },
            attempts: Vec::new(),
            runs: Vec::new(),
            ..row.clone()
        };
        self.put_row(home, event, &row);
        true
    }

    pub(super) fn add(&mut self, home: Home, moves: Vec<(Move, DeliveryRecord)>) -> u64 {
        let cell = self.cell(home.shard);
        let mut state = cell.state();
        moves.into_iter().map(|(work, row)| u64::from(self.add_one(&mut state, home, work, &row))).sum()
    }

    fn add_one(&mut self, state: &mut State, home: Home, work: Move, row: &DeliveryRecord) -> bool {
        let (id, event) = (work.id, work.event);
        let story = self.story(home.tenant, event);
        let is_new = !story.rows.iter().any(|row| row.id == id) && self.read::<Waiting>(&keys::waiting(home.shard, id)).is_none();
        if !is_new || !story.finished || story.listed.is_none_or(|listed| listed.shard != home.shard) {
            return false;
        }
        if story.is_terminal() {
            state.ledger.history_bytes = state.ledger.history_bytes.saturating_sub(story.bytes());
        }
        self.put_work(state, work);
        // A trim that is under way must notice.
        state.revivals += 1;
        self.put_row(home, event, row);
        true
    }

    /// Adds an outcome that ends nothing.
    fn put_row(&mut self, home: Home, event: EventId, row: &DeliveryRecord) {
        let outcome = encode(&Outcome { end: End::Nothing, rows: vec![Row::of(row)] });
        let n = self.serial();
        self.put(Tree::History, keys::history(home.tenant, event, n), outcome.clone());
        self.unit.stories.entry(event).or_default().push((n, outcome));
    }

    /// Removes a dead letter for good, if it still is the one that was given up `at`. Whether it was.
    pub(super) fn bury(&mut self, state: &mut State, shard: Shard, at: Timestamp, id: DeliveryId) -> bool {
        let waiting = self.read::<Waiting>(&keys::waiting(shard, id));
        let is_it = waiting.is_some_and(|waiting| matches!(waiting.place, Place::Dead { at: since, .. } if since == at));
        if is_it {
            self.take_away(state, id);
        }
        is_it
    }
}
