//! Suspects run one at a time, of all shards of this process: so a crash tells which it was, and none is counted with another.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(in crate::dispatch) struct Solos(Arc<Mutex<()>>);

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
        Solo::of(self.0.clone().lock_owned().await)
    }

    /// The turn, unless another has it.
    pub(in crate::dispatch) fn try_turn(&self) -> Option<Solo> {
        self.0.clone().try_lock_owned().ok().map(Solo::of)
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
