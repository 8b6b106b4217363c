//! Suspects run one at a time, of all shards of this process: so a crash tells which it was, and none is counted with another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::clock::monotonic;
use crate::event::Shard;

/// Who has not asked again for so long does not wait any more.
const GONE: Duration = Duration::from_millis(200);

/// Whose turn it is.
#[derive(Debug, Default)]
pub(in crate::dispatch) struct Solos {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Shards that asked and did not get it, the first first, each with when it asked last: one with many suspects lets others in between.
    asked: Mutex<VecDeque<(Shard, Instant)>>,
}

/// The turn of one suspect. It is held until what became of it is written, since a crash before that counts it again, or until a write has
/// failed: the store may be away for long.
#[derive(Debug)]
pub(in crate::dispatch) struct Solo {
    _turn: OwnedMutexGuard<()>,
    over: CancellationToken,
}

impl Solos {
    /// Waits for the turn. To be asked with nothing in hand that others need: it may last as long as an attempt.
    pub(in crate::dispatch) async fn turn(&self) -> Solo {
        Solo::of(self.turn.clone().lock_owned().await)
    }

    /// The turn, unless another has it or asked for it before.
    pub(in crate::dispatch) fn try_turn(&self, shard: Shard) -> Option<Solo> {
        self.try_turn_at(shard, monotonic())
    }

    fn try_turn_at(&self, shard: Shard, now: Instant) -> Option<Solo> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|(_, at)| now.saturating_duration_since(*at) < GONE);
        match asked.iter_mut().find(|(other, _)| *other == shard) {
            Some((_, at)) => *at = now,
            None => asked.push_back((shard, now)),
        }
        if asked.front().is_some_and(|(first, _)| *first != shard) {
            return None;
        }
        let turn = self.turn.clone().try_lock_owned().ok()?;
        asked.pop_front();
        Some(Solo::of(turn))
    }
}

impl Solo {
    fn of(turn: OwnedMutexGuard<()>) -> Self {
        Self { _turn: turn, over: CancellationToken::new() }
    }

    /// Cancelled once the turn is over.
    pub(in crate::dispatch) fn over(&self) -> CancellationToken {
        self.over.clone()
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: Shard = Shard(1);
    const ONE: Shard = Shard(2);

    #[test]
    fn a_shard_with_many_suspects_lets_another_in_between() {
        let (solos, now) = (Solos::default(), monotonic());
        let first = solos.try_turn_at(MANY, now).expect("nobody has it");
        assert!(solos.try_turn_at(ONE, now).is_none());
        drop(first);
        assert!(solos.try_turn_at(MANY, now).is_none(), "the other asked before");
        let other = solos.try_turn_at(ONE, now).expect("it is its turn");
        drop(other);
        assert!(solos.try_turn_at(MANY, now).is_some());
    }

    #[test]
    fn who_asks_no_more_is_not_waited_for() {
        let (solos, now) = (Solos::default(), monotonic());
        let first = solos.try_turn_at(MANY, now).expect("nobody has it");
        assert!(solos.try_turn_at(ONE, now).is_none());
        drop(first);
        assert!(solos.try_turn_at(MANY, now + GONE).is_some());
    }
}
