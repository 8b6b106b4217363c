//! When the first of a line is looked at again that waits for something that tells nobody when it is over, and what of that is recorded: that
//! it began to wait, and for what. As long as that stays so it is put back as it is, after longer and longer pauses.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::dispatch::record::Done;
use crate::dispatch::wait::Wait;
use crate::event::DeliveryId;
use crate::store::{DeliveryState, Line, Origin, PutBack, Record};

/// What is looked at again, and after which pause for the first time. The queue as a whole is kept by all else that one waits for.
const PAUSES: [(Wait, Duration); 4] = [
    (Wait::PluginFuel, Duration::from_millis(100)),
    (Wait::ConnectionPaused, Duration::from_secs(1)),
    (Wait::PluginPoisoned, Duration::from_secs(1)),
    (Wait::RetriesPaused, Duration::from_secs(1)),
];
/// A pause doubles so many times.
const DOUBLINGS: u32 = 4;
/// So many are known; those beyond are looked at after the longest pause, and recorded each time.
const LOOKS: usize = 16_384;

/// The first of lines that wait, of one shard.
#[derive(Debug, Default)]
pub(in crate::dispatch) struct Looks(Mutex<HashMap<DeliveryId, Look>>);

/// How one was found the last time.
#[derive(Debug)]
struct Look {
    reason: String,
    times: u32,
}

impl Looks {
    /// Says when the first of a line is due again if it stays, and that nothing of it is to be recorded if it stays for what it stayed
    /// for. To be asked with each outcome of one.
    pub(in crate::dispatch) fn settle(&self, done: &mut Done) {
        let Some((_, from)) = done.held.as_ref().and_then(|held| held.line) else { return };
        let Origin::Job(id) = done.record.origin else { return };
        let Some((reason, is_news, line)) = stays(&mut done.record, id) else {
            self.looks().remove(&id);
            return;
        };
        let (times, is_known) = self.look(id, reason);
        let pause = PAUSES.iter().find(|(wait, _)| wait.as_str() == reason).map_or(Duration::ZERO, |(_, pause)| *pause);
        line.due = line.due.max(from.after(Duration::from_millis(1))).after(pause * 2_u32.pow(times.min(DOUBLINGS)));
        done.back = (is_known && !is_news).then_some(PutBack { id, from, due: line.due });
    }

    /// How often it was found so before, and whether that was recorded.
    fn look(&self, id: DeliveryId, reason: &str) -> (u32, bool) {
        let mut looks = self.looks();
        if let Some(look) = looks.get_mut(&id).filter(|look| look.reason == reason) {
            look.times = look.times.saturating_add(1);
            return (look.times, true);
        }
        if looks.len() >= LOOKS && !looks.contains_key(&id) {
            return (DOUBLINGS, false);
        }
        looks.insert(id, Look { reason: reason.to_owned(), times: 0 });
        (0, false)
    }

    fn looks(&self) -> MutexGuard<'_, HashMap<DeliveryId, Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For what a job stays in its place, whether there is something to tell of it beside that, and its line.
fn stays(record: &mut Record, id: DeliveryId) -> Option<(&str, bool, &mut Line)> {
    let [row] = &mut record.deliveries[..] else { return None };
    let line = row.job.as_mut()?.line.as_mut().filter(|line| line.place.is_some())?;
    match &row.state {
        DeliveryState::Parked { reason, .. } if record.finished && row.id == id => {
            Some((reason, !row.attempts.is_empty() || !row.runs.is_empty(), line))
        }
        _ => None,
    }
}
