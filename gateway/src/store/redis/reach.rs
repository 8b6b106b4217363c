//! Whether the server can be reached, as all connections and the checks know it together.
//!
//! A connection that breaks, or can't be made, raises a doubt. The doubt wakes the checks, and they settle it: while the server is
//! away one of them tries again and again, and whoever wants to write is answered at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::store::StoreError;

/// How long an accept waits for a doubt to be settled: a connection that broke alone is made anew in less.
const GRACE: Duration = Duration::from_millis(300);

#[derive(Clone, Debug)]
enum State {
    Up,
    Doubtful,
    Away(StoreError),
}

/// What is known of the server.
pub(super) struct Reach {
    state: watch::Sender<State>,
    doubts: Notify,
    absences: AtomicU64,
    returns: AtomicU64,
}

impl Reach {
    pub(super) fn new() -> Self {
        Self {
            state: watch::Sender::new(State::Up),
            doubts: Notify::new(),
            absences: AtomicU64::new(0),
            returns: AtomicU64::new(0),
        }
    }

    /// A connection failed.
    pub(super) fn doubt(&self) {
        let raised = self.state.send_if_modified(|state| {
            let raised = matches!(state, State::Up);
            if raised {
                *state = State::Doubtful;
            }
            raised
        });
        if raised {
            self.doubts.notify_one();
        }
    }

    /// Waits for the next doubt.
    pub(super) async fn doubted(&self) {
        self.doubts.notified().await;
    }

    /// What a check found.
    pub(super) fn found(&self, answer: &Result<(), StoreError>) {
        let next = answer.as_ref().map_or_else(|error| State::Away(error.clone()), |()| State::Up);
        self.state.send_modify(|state| {
            match (&*state, &next) {
                (State::Away(_), State::Up) => self.returns.fetch_add(1, Ordering::Relaxed),
                (State::Up | State::Doubtful, State::Away(_)) => self.absences.fetch_add(1, Ordering::Relaxed),
                _ => 0,
            };
            *state = next;
        });
    }

    /// Counts how often the server was found to be away: a connection from before is no good after it.
    pub(super) fn absences(&self) -> u64 {
        self.absences.load(Ordering::Relaxed)
    }

    /// Counts how often it was found to be back: an attempt to connect from before says nothing about the next.
    pub(super) fn returns(&self) -> u64 {
        self.returns.load(Ordering::Relaxed)
    }

    /// The error while the server is away.
    pub(super) fn now(&self) -> Result<(), StoreError> {
        if let State::Away(error) = &*self.state.borrow() { Err(error.clone()) } else { Ok(()) }
    }

    /// Whether it is worth to write: answers at once, or after a little while if there is a doubt.
    pub(super) async fn pass(&self) -> Result<(), StoreError> {
        if matches!(*self.state.borrow(), State::Up) {
            return Ok(());
        }
        let mut state = self.state.subscribe();
        let settled = timeout(GRACE, state.wait_for(|state| !matches!(state, State::Doubtful))).await;
        match settled {
            Ok(Ok(state)) => {
                if let State::Away(error) = &*state {
                    Err(error.clone())
                } else {
                    Ok(())
                }
            }
            // The sender is ours.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(StoreError::Unavailable("the connection to redis broke, and a new one takes its time".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Result<(), StoreError> {
        Err(StoreError::Unavailable("away".into()))
    }

    #[tokio::test]
    async fn a_doubt_is_waited_for_and_an_absence_is_not() {
        let reach = Reach::new();
        reach.pass().await.unwrap();
        reach.doubt();
        reach.doubted().await;
        reach.now().unwrap();
        let (passed, ()) = tokio::join!(reach.pass(), async { reach.found(&Ok(())) });
        passed.unwrap();
        reach.doubt();
        assert!(reach.pass().await.is_err(), "nobody settles it");
        reach.found(&away());
        assert!(reach.pass().await.is_err() && reach.now().is_err());
        reach.found(&away());
        assert_eq!((reach.absences(), reach.returns()), (1, 0));
        reach.doubt();
        assert!(reach.now().is_err(), "what is away stays away until it is found");
        reach.found(&Ok(()));
        reach.pass().await.unwrap();
        assert_eq!((reach.absences(), reach.returns()), (1, 1));
    }
}
