//! Reads a body to its end, or says why not. Its bytes are taken from the budget before they are read.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use super::shares::{Holder, Share};

/// A body without a length takes its budget in steps of this.
const STEP: usize = 64 << 10;

/// Why a body could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    /// Larger than the source allows.
    #[error("over the limit")]
    TooLarge,
    /// The budget for bodies is used up.
    #[error("no room")]
    NoRoom,
    /// Not complete in time, or slower than the minimum rate.
    #[error("too slow")]
    TooSlow,
    /// The sender went away, or broke the framing.
    #[error("incomplete")]
    Incomplete,
}

/// Where a body's bytes are taken from; gives all back when dropped.
#[derive(Debug)]
pub(super) struct Room<'a> {
    total: &'a std::sync::Arc<Semaphore>,
    holders: [Option<&'a Holder>; 2],
    permit: Option<OwnedSemaphorePermit>,
    shares: [Option<Share>; 2],
    taken: usize,
}

impl<'a> Room<'a> {
    pub(super) fn new(total: &'a std::sync::Arc<Semaphore>, peer: Option<&'a Holder>, source: &'a Holder) -> Self {
        Self { total, holders: [peer, Some(source)], permit: None, shares: [None, None], taken: 0 }
    }

    /// Makes room for `bytes` in all.
    fn reach(&mut self, bytes: usize) -> Result<(), BodyError> {
        let more = bytes.saturating_sub(self.taken);
        if more == 0 {
            return Ok(());
        }
        let permits = u32::try_from(more).map_err(|_| BodyError::NoRoom)?;
        for (holder, held) in self.holders.into_iter().zip(&mut self.shares) {
            let Some(holder) = holder else { continue };
            let share = holder.take(more).ok_or(BodyError::NoRoom)?;
            match held {
                Some(held) => held.merge(share),
                None => *held = Some(share),
            }
        }
        let permit = self.total.clone().try_acquire_many_owned(permits).map_err(|_| BodyError::NoRoom)?;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        self.taken = bytes;
        Ok(())
    }
}

/// Reads `body`, whose head came at `started`, up to `cap` bytes. A body that comes in one piece is not copied.
pub(super) async fn read(
    mut body: Incoming,
    cap: usize,
    started: Instant,
    limits: &Limits,
    room: &mut Room<'_>,
) -> Result<Bytes, BodyError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let length = body.size_hint().exact();
    let expected = match length {
        Some(length) => usize::try_from(length).ok().filter(|length| *length <= cap).ok_or(BodyError::TooLarge)?,
        None => STEP.min(cap),
    };
    room.reach(expected)?;
    let mut pace = Pace::new(started, limits);
    let Some(first) = next(&mut body, &mut pace, 0).await? else { return Ok(Bytes::new()) };
    if first.len() > cap {
        return Err(BodyError::TooLarge);
    }
    if body.is_end_stream() {
        room.reach(first.len())?;
        return Ok(first);
    }
    // Only a length that the sender declared is allocated at once, and its bytes are in the budget.
    let mut whole = BytesMut::with_capacity(if length.is_some() { expected } else { first.len() });
    whole.extend_from_slice(&first);
    drop(first);
    while let Some(piece) = next(&mut body, &mut pace, whole.len()).await? {
        let size = whole.len() + piece.len();
        if size > cap {
            return Err(BodyError::TooLarge);
        }
        if size > room.taken {
            // Doubling, as the buffer itself does.
            room.reach(size.max(room.taken.saturating_mul(2)).min(cap))?;
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// The next piece, or none at the end.
async fn next(body: &mut Incoming, pace: &mut Pace, received: usize) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = pace.violated(received) => return Err(BodyError::TooSlow),
        };
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(BodyError::Incomplete),
            // Trailers are not data: go on to the end.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The latest time at which the next piece must be there. Polled only when there is nothing to read, so that a body that is
/// there already costs no timer.
struct Pace {
    started: Instant,
    end: Instant,
    grace: Duration,
    rate: u64,
}

impl Pace {
    fn new(started: Instant, limits: &Limits) -> Self {
        let end = started + limits.body.min(limits.total);
        Self { started, end, grace: limits.body_grace, rate: limits.body_rate }
    }

    async fn violated(&mut self, received: usize) {
        let at = match self.rate {
            0 => self.end,
            rate => {
                let earned = Duration::from_secs_f64(received as f64 / rate as f64);
                self.end.min(self.started + self.grace + earned)
            }
        };
        tokio::time::sleep_until(at.into()).await;
    }
}
