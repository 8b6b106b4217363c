//! Attempts, and how they are stored: what one of a batch has besides stands where the others say whether their response was cut, so that
//! these are stored as ever.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BatchId, Failure};
use crate::clock::Timestamp;

/// One HTTP request of a delivery, as it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// Status code, if a complete response head came.
    pub status: Option<u16>,
    /// The response body up to the cap.
    pub response: Bytes,
    /// Whether the response body was cut at the cap or by the deadline.
    pub response_cut: bool,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
    /// The batch that the delivery went out in, if it did.
    pub batch: Option<BatchPart>,
}

/// A delivery's place in a request of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPart {
    /// The batch, which is the request's `webhook-id`.
    pub id: BatchId,
    /// How many deliveries were in it.
    pub size: u32,
}

/// An attempt as it is stored.
#[derive(Deserialize)]
struct Stored {
    number: u32,
    started_at: Timestamp,
    took_us: u64,
    status: Option<u16>,
    response: Bytes,
    kind: Kind,
    failure: Option<Failure>,
}

/// The same, borrowed: the same fields in the same order.
#[derive(Serialize)]
struct StoredRef<'a> {
    number: u32,
    started_at: Timestamp,
    took_us: u64,
    status: Option<u16>,
    response: &'a Bytes,
    kind: Kind,
    failure: &'a Option<Failure>,
}

/// The first two are a bool's two values.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Kind {
    Whole,
    Cut,
    Batch { part: BatchPart, cut: bool },
}

impl Serialize for Attempt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { number, started_at, took_us, status, response, response_cut, failure, batch } = self;
        let kind = match batch {
            None if *response_cut => Kind::Cut,
            None => Kind::Whole,
            Some(part) => Kind::Batch { part: *part, cut: *response_cut },
        };
        let (number, started_at, took_us, status) = (*number, *started_at, *took_us, *status);
        StoredRef { number, started_at, took_us, status, response, kind, failure }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Attempt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Stored { number, started_at, took_us, status, response, kind, failure } = Stored::deserialize(deserializer)?;
        let (response_cut, batch) = match kind {
            Kind::Whole => (false, None),
            Kind::Cut => (true, None),
            Kind::Batch { part, cut } => (cut, Some(part)),
        };
        Ok(Self { number, started_at, took_us, status, response, response_cut, failure, batch })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Party, decode, encode};
    use super::*;

    fn attempt(response_cut: bool, batch: Option<BatchPart>) -> Attempt {
        let (party, code, detail) = (Party::Destination, "status".to_owned(), "answered 500".to_owned());
        Attempt {
            number: 300,
            started_at: Timestamp(1_800_000_000_000),
            took_us: 70_000,
            status: Some(500),
            response: Bytes::from_static(b"no"),
            response_cut,
            failure: Some(Failure { party, code, detail, retryable: true }),
            batch,
        }
    }

    #[test]
    fn what_is_in_no_batch_is_stored_as_before_there_were_any() {
        for cut in [false, true] {
            let one = attempt(cut, None);
            let fields = (one.number, one.started_at, one.took_us, one.status, &one.response, one.response_cut, &one.failure);
            assert_eq!(encode(&one), encode(&fields));
            assert_eq!(decode::<Attempt>(&encode(&one)).unwrap(), one);
        }
    }

    #[test]
    fn a_place_in_a_batch_comes_back() {
        for cut in [false, true] {
            let one = attempt(cut, Some(BatchPart { id: BatchId(7), size: 100 }));
            assert_eq!(decode::<Vec<Attempt>>(&encode(&vec![one.clone(), attempt(cut, None)])).unwrap(), [one, attempt(cut, None)]);
        }
    }
}
