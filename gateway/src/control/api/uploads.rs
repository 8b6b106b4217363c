//! Room for components while they are received: what a client says that it will send, and takes its time to.

use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;

use super::Problem;
use crate::config::units::ShownSize;
use crate::control::service::Access;

/// How many of the largest components one client's key, and all keys together, may be sending at once.
const OF_ONE: usize = 2;
const OF_ALL: usize = 4;

/// What is being received.
#[derive(Debug)]
pub(super) struct Uploads {
    largest: usize,
    held: Mutex<Vec<(Access, usize)>>,
}

/// Room for one component, until it is dropped.
pub(super) struct Held {
    uploads: Arc<Uploads>,
    one: (Access, usize),
}

impl Uploads {
    /// `largest` is the size of the largest component that is taken.
    pub(super) fn new(largest: usize) -> Arc<Self> {
        Arc::new(Self { largest, held: Mutex::default() })
    }

    /// Makes room for a body of `declared` bytes, or of whatever size.
    pub(super) fn hold(self: &Arc<Self>, access: Access, declared: Option<usize>) -> Result<Held, Problem> {
        let bytes = declared.unwrap_or(self.largest).min(self.largest);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one: usize = held.iter().filter(|(owner, _)| *owner == access).map(|(_, bytes)| bytes).sum();
        let of_all: usize = held.iter().map(|(_, bytes)| bytes).sum();
        for (whose, before, times) in [("with this key's owner", of_one, OF_ONE), ("in all", of_all, OF_ALL)] {
            let max = self.largest.saturating_mul(times);
            if before + bytes > max {
                let detail =
                    format!("{} of components are being received {whose}, as much as may be: try again", ShownSize(max as u64));
                return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", detail).retry_after(5));
            }
        }
        held.push((access, bytes));
        Ok(Held { uploads: Arc::clone(self), one: (access, bytes) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.uploads.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = held.iter().position(|one| *one == self.one) {
            held.swap_remove(place);
        }
    }
}
