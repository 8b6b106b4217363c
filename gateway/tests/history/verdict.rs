//! The model: which statuses the facts allow at a moment, and which they leave when nothing more is to happen.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidegate::event::{DeliveryId, EventId};

use crate::facts::{Accepted, Facts, Link, MAX_ATTEMPTS, Seen, SeenRow, Sent, Settings};
use crate::ops::{CONNECTIONS, DESTINATIONS, EVEN, HANG, KEEP, RESET};

/// What is wrong.
pub(crate) type Wrong = String;

macro_rules! must {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

/// What is settled when an event is asked for, to judge the answer by.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    settings: Settings,
    changes: u64,
    retries: BTreeMap<EventId, u64>,
}

impl Facts {
    /// Before something is read.
    pub(crate) fn asked(&self) -> Asked {
        let retries = self.events.iter().map(|(id, event)| (*id, event.retries.1)).collect();
        Asked { settings: self.settings.clone(), changes: self.changes, retries }
    }

    /// Judges an event as the API showed it, and remembers it.
    pub(crate) fn judge(&mut self, shown: &Value, asked: &Asked) -> Result<(), Wrong> {
        let id: EventId = text(&shown["id"]).parse().map_err(|_| format!("not an event's id: {shown}"))?;
        let event = self.events.get(&id).ok_or_else(|| format!("nobody sent {id}"))?.clone();
        let sent = &self.sent[event.number];
        let verdict = self.event(id, &event, sent, shown, asked);
        let seen = verdict.map_err(|wrong| {
            let answers = self.links.iter().map(|link| (link, DeliveryId::derive(id, link.id, 0)));
            let answers: Vec<_> = answers
                .map(|(link, row)| (CONNECTIONS[link.place].0, row, self.answers(row)))
                .filter(|of| !of.2.is_empty())
                .collect();
            format!("{wrong}\nshown: {shown:#}\nseen before: {:#?}\nsent: {sent:?}\nanswered: {answers:?}", event.seen)
        })?;
        self.events.get_mut(&id).expect("it is there").seen = Some(seen);
        Ok(())
    }

    fn event(&self, id: EventId, event: &Accepted, sent: &Sent, shown: &Value, asked: &Asked) -> Result<Seen, Wrong> {
        must!(shown["source"] == sent.source.as_str(), "it came in by {}", sent.source);
        let rows = shown["deliveries"].as_array().ok_or("no deliveries")?;
        let state = text(&shown["state"]);
        let is_open = matches!(state, "queued" | "active");
        must!(overall(rows).contains(&state), "`{state}` does not follow from its deliveries");
        must!(shown["waiting"].is_object() == is_open, "what is open, and nothing else, says what it waits for");
        let mut seen = Seen { state: state.to_owned(), retries: asked.retries.get(&id).copied().unwrap_or(0), ..Seen::default() };
        for row in rows {
            let row_id = text(&row["id"]).parse().map_err(|_| format!("not a delivery's id: {row}"))?;
            self.row(id, event, sent, (row_id, row), asked).map_err(|wrong| format!("{row_id}: {wrong}"))?;
            let attempts = row["attempts"].as_array().ok_or("no attempts")?.clone();
            let is_new = seen.rows.insert(row_id, SeenRow { state: text(&row["state"]).to_owned(), attempts }).is_none();
            must!(is_new, "{row_id} is there twice");
        }
        if let Some(before) = &event.seen {
            follows(id, before, &seen, event.retries.0)?;
        }
        Ok(seen)
    }

    fn row(&self, id: EventId, event: &Accepted, sent: &Sent, row: (DeliveryId, &Value), asked: &Asked) -> Result<(), Wrong> {
        let (row_id, row) = row;
        let state = text(&row["state"]);
        must!(row["waiting"].is_object() == matches!(state, "scheduled" | "parked"), "what waits, and nothing else, says for what");
        let whole = row_id == DeliveryId::of_event(id);
        let link = self.link_of(id, sent, row_id);
        must!(whole || link.is_some(), "no connection of its source has it");
        must!(!whole || row["connection"].is_null(), "a whole event is of no connection");
        let is_taken = link.is_none_or(|link| takes(link, sent));
        let code = text(&row["failure"]["code"]);
        match state {
            "delivered" => must!(self.answers(row_id).contains(&200), "the receiver has not taken it"),
            "filtered" => {
                must!(!is_taken, "nothing filters it");
                let by = if link.is_some_and(|link| link.place == KEEP) { "keep" } else { "filter" };
                must!(row["reason"] == by, "it is {by} that filters it");
            }
            "unmatched" => {
                let was_there = |link: &&Link| link.source == sent.source && link.made <= sent.at;
                must!(whole && self.links.iter().filter(was_there).all(|link| link.gone.is_some()), "it has a connection");
            }
            "dead_lettered" => self.given_up(row, code, whole, link, sent)?,
            "scheduled" | "parked" => {}
            _ => return Err(format!("there is no state `{state}`")),
        }
        let rounds = self.attempts(row_id, row)?;
        must!(is_taken || rounds.number == 0, "it was to be filtered");
        // A job that is taken up again after a crash puts its last batch back once more.
        let most = 1 + event.retries.0 * (1 + self.ended);
        must!(
            rounds.number <= most,
            "{} times given up or delivered, and {} times asked for again",
            rounds.number,
            event.retries.0
        );
        match state {
            "delivered" => must!(rounds.is_delivered, "no attempt of it was taken"),
            "dead_lettered" if !whole && !["unknown_connection", "gateway_crashed"].contains(&code) => {
                must!(rounds.ended && !rounds.is_delivered, "it has attempts left");
            }
            _ => must!(!rounds.is_delivered, "it is delivered"),
        }
        if asked.changes == self.changes && asked.changes.is_multiple_of(2) && row["waiting"].is_object() {
            self.waits(&row["waiting"], link, &asked.settings)?;
        }
        Ok(())
    }

    fn given_up(&self, row: &Value, code: &str, whole: bool, link: Option<&Link>, sent: &Sent) -> Result<(), Wrong> {
        let last = row["attempts"].as_array().and_then(|attempts| attempts.last()).map(|last| &last["status"]);
        let is_it = match code {
            "attempts_exhausted" => link.is_some(),
            "gone" => last.is_some_and(|status| *status == 410),
            "unknown_connection" => link.is_some_and(|link| link.gone.is_some()),
            "unknown_source" => whole && self.gone_sources.contains(&sent.source),
            "gateway_crashed" => self.ended >= 4,
            _ => false,
        };
        must!(is_it, "nothing gave it up with `{code}`");
        Ok(())
    }

    /// Its attempts: in order, and answered as the receiver says.
    fn attempts(&self, row_id: DeliveryId, row: &Value) -> Result<Rounds, Wrong> {
        let attempts = row["attempts"].as_array().ok_or("no attempts")?;
        let mut answers = self.answers(row_id).iter();
        let mut rounds = Rounds::default();
        let mut spent = 0;
        for (number, attempt) in (1..).zip(attempts) {
            must!(attempt["number"] == number, "attempt {number} has another number");
            let status = attempt["status"].as_u64().map(|status| status as u16);
            let is_known = match status {
                Some(status) => answers.any(|answer| *answer == status),
                // Some of these never reached the receiver, and some it answered too late.
                None => true,
            };
            must!(is_known, "the receiver did not answer attempt {number} so: {:?}", self.answers(row_id));
            must!(!rounds.is_delivered, "attempt {number} was made of what is delivered");
            rounds.ended = false;
            spent += 1;
            if spent == 1 {
                rounds.number += 1;
            }
            match status {
                Some(200) => (rounds.is_delivered, rounds.ended, spent) = (true, true, 0),
                Some(410) => (rounds.ended, spent) = (true, 0),
                _ if spent == MAX_ATTEMPTS => (rounds.ended, spent) = (true, 0),
                _ => {}
            }
        }
        Ok(rounds)
    }

    fn waits(&self, waiting: &Value, link: Option<&Link>, settings: &Settings) -> Result<(), Wrong> {
        let destination = link.map(|link| CONNECTIONS[link.place].2);
        let name = destination.map(|place| DESTINATIONS[place]);
        let reason = text(&waiting["for"]);
        let may_be = match reason {
            "lane" | "retry" | "tenant_window" | "destination_window" => true,
            "paused" => settings.retries_paused || link.is_some_and(|link| settings.paused[link.place]),
            "held" => settings.diverted,
            "destination_disabled" => {
                destination.is_some_and(|place| settings.disabled[place]) || (name == Some("z") && self.has_answered(410))
            }
            "rate_limit" => destination.is_some_and(|place| settings.limited[place]),
            "circuit_open" => name == Some("y"),
            _ => false,
        };
        must!(may_be, "it does not wait for `{reason}`: {settings:?}");
        let is_deleted = link.is_some_and(|link| link.gone.is_some());
        let is_paused = !is_deleted && link.is_some_and(|link| settings.paused[link.place]);
        let is_disabled = !is_deleted && destination.is_some_and(|place| settings.disabled[place]);
        must!(
            !(is_paused || is_disabled) || matches!(reason, "paused" | "held" | "destination_disabled"),
            "it waits for more than `{reason}`"
        );
        Ok(())
    }

    fn has_answered(&self, status: u16) -> bool {
        self.answers.values().any(|answers| answers.contains(&status))
    }

    /// What must be when nothing more is to happen.
    pub(crate) fn settled(&self, id: EventId) -> Result<(), Wrong> {
        let event = &self.events[&id];
        let sent = &self.sent[event.number];
        let seen = event.seen.as_ref().ok_or("it was never shown")?;
        must!(!matches!(seen.state.as_str(), "queued" | "active"), "it is {} still", seen.state);
        let whole = seen.rows.get(&DeliveryId::of_event(id)).map(|row| row.state.as_str());
        for link in self.links.iter().filter(|link| link.source == sent.source) {
            let row_id = DeliveryId::derive(id, link.id, 0);
            let always_there = link.made <= sent.at && link.gone.is_none();
            let Some(row) = seen.rows.get(&row_id) else {
                must!(!always_there || whole == Some("dead_lettered"), "connection {} has no part in it", link.id);
                continue;
            };
            let answers = self.answers(row_id);
            let is_taken = answers.contains(&200);
            let is_late = row.attempts.iter().any(|attempt| attempt["status"].is_null());
            let expected = match () {
                () if !takes(link, sent) => "filtered",
                () if is_taken => "delivered",
                () => "dead_lettered",
            };
            // A crash may forget what the receiver took; then it is attempted again, unless its connection is deleted meanwhile.
            let is_excused = expected == "delivered" && row.state == "dead_lettered" && (link.gone.is_some() || is_late);
            let is_unplanned = !always_there && row.state == "dead_lettered" && answers.is_empty();
            must!(row.state == expected || is_excused || is_unplanned, "{row_id} is {}, not {expected}", row.state);
            self.counted(row, answers)?;
        }
        Ok(())
    }

    /// Where no gateway was ended each request is an attempt, and each attempt a request.
    fn counted(&self, row: &SeenRow, answers: &[u16]) -> Result<(), Wrong> {
        if self.ended > 0 || self.unsteady {
            return Ok(());
        }
        let status = |attempt: &Value| attempt["status"].as_u64().map(|status| status as u16);
        let answered: Vec<_> = answers.iter().copied().filter(|answer| ![HANG, RESET].contains(answer)).collect();
        let recorded: Vec<_> = row.attempts.iter().filter_map(status).collect();
        let is_late = row.attempts.len() - recorded.len() > answers.len() - answered.len();
        must!(answered == recorded || is_late, "answered {answers:?}, recorded {:?}", row.attempts);
        Ok(())
    }

    /// The deliveries that are dead letters, as the events tell it.
    pub(crate) fn dead_letters(&self) -> BTreeSet<DeliveryId> {
        let rows = self.events.values().filter_map(|event| event.seen.as_ref()).flat_map(|seen| &seen.rows);
        rows.filter(|(_, row)| row.state == "dead_lettered").map(|(id, _)| *id).collect()
    }
}

/// What a delivery's attempts come to.
#[derive(Debug, Default)]
struct Rounds {
    /// Begun: the first, and one for each retry by hand.
    number: u64,
    /// Whether the last one is over.
    ended: bool,
    is_delivered: bool,
}

/// Whether a connection takes the event.
fn takes(link: &Link, sent: &Sent) -> bool {
    match link.place {
        EVEN => sent.script.even,
        KEEP => sent.script.keep,
        _ => true,
    }
}

/// The states that follow from an event's deliveries; which of them depends on whether it is planned to the end.
fn overall(rows: &[Value]) -> Vec<&'static str> {
    let any = |state: &str| rows.iter().any(|row| row["state"] == state);
    match () {
        () if rows.is_empty() => vec!["queued"],
        () if any("scheduled") || any("parked") => vec!["active"],
        () if any("dead_lettered") => vec!["active", "dead_lettered"],
        () if any("delivered") => vec!["active", "delivered"],
        () if any("filtered") => vec!["active", "filtered"],
        () => vec!["unmatched"],
    }
}

/// Whether the one may be shown after the other, when so many retries were begun by now.
fn follows(id: EventId, before: &Seen, now: &Seen, retries: u64) -> Result<(), Wrong> {
    let is_retried = retries > before.retries;
    must!(before.state == "queued" || now.state != "queued", "it was {} before", before.state);
    let was_settled = !matches!(before.state.as_str(), "queued" | "active");
    must!(!was_settled || before.state == now.state || is_retried, "it was {} before, and nobody retried it", before.state);
    for (row_id, was) in &before.rows {
        let Some(is) = now.rows.get(row_id) else {
            // The row of an event that was planned as a whole gives way to those of its deliveries.
            must!(*row_id == DeliveryId::of_event(id) && !now.rows.is_empty(), "{row_id} is gone");
            continue;
        };
        let is_allowed = match was.state.as_str() {
            "scheduled" | "parked" => true,
            "dead_lettered" => is.state == was.state || is_retried,
            _ => is.state == was.state,
        };
        must!(is_allowed, "{row_id} was {} before", was.state);
        must!(is.attempts.starts_with(&was.attempts), "{row_id} had other attempts before: {:?}", was.attempts);
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
