//! How records are stored: one byte of format version, then postcard (<https://postcard.jamesmunns.com/wire-format>).

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Event, EventId, Header, Pin, Request, Revision, SourceId, TenantId, TraceContext};
use crate::clock::Timestamp;

/// The format version that this release writes.
pub const FORMAT: u8 = 1;

/// A stored record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer release: upgrade this node.
    #[error("record has format version {0}, this release reads up to {FORMAT}: upgrade this node")]
    Newer(u8),
    /// Not a record at all.
    #[error("record is damaged: {0}")]
    Damaged(#[from] postcard::Error),
    /// Nothing there.
    #[error("record is empty")]
    Empty,
}

/// The stored form of `value`.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT]).expect("plain data always serialises")
}

/// Reads what [`encode`] wrote.
pub fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T, DecodeError> {
    match record.split_first() {
        None => Err(DecodeError::Empty),
        Some((&version, rest)) if version == FORMAT => Ok(postcard::from_bytes(rest)?),
        Some((&version, _)) => Err(DecodeError::Newer(version)),
    }
}

/// The stored form of `value` with something `added` behind it, which whoever knows nothing of it does not read.
pub fn encode_with<T: Serialize, U: Serialize>(value: &T, added: &U) -> Vec<u8> {
    postcard::to_extend(added, encode(value)).expect("plain data always serialises")
}

/// Reads what [`encode_with`] wrote, or [`encode`]: then nothing was added.
pub fn decode_with<T: DeserializeOwned, U: DeserializeOwned>(record: &[u8]) -> Result<(T, Option<U>), DecodeError> {
    match record.split_first() {
        None => Err(DecodeError::Empty),
        Some((&version, rest)) if version == FORMAT => {
            let (value, added) = postcard::take_from_bytes(rest)?;
            Ok((value, if added.is_empty() { None } else { Some(postcard::from_bytes(added)?) }))
        }
        Some((&version, _)) => Err(DecodeError::Newer(version)),
    }
}

/// The stored form of an event: version, length of the head (4 bytes, big endian), head, body. The body stays apart so that
/// reading it back shares the buffer that it came in.
pub fn encode_event(event: &Event) -> Vec<u8> {
    let body = &event.request.body;
    let mut record = Vec::with_capacity(512 + body.len());
    record.extend_from_slice(&[FORMAT, 0, 0, 0, 0]);
    let mut record = postcard::to_extend(&HeadRef::of(event), record).expect("plain data always serialises");
    let head = u32::try_from(record.len() - PREFIX).expect("heads are capped far below 4 GiB");
    record[1..PREFIX].copy_from_slice(&head.to_be_bytes());
    record.extend_from_slice(body);
    record
}

/// Reads what [`encode_event`] wrote; the body is a slice of `record`.
pub fn decode_event(record: &Bytes) -> Result<Event, DecodeError> {
    match record.first() {
        None => return Err(DecodeError::Empty),
        Some(&version) if version != FORMAT => return Err(DecodeError::Newer(version)),
        Some(_) => {}
    }
    let cut = DecodeError::Damaged(postcard::Error::DeserializeUnexpectedEnd);
    let Some(length) = record.get(1..PREFIX).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes) else {
        return Err(cut);
    };
    let end = PREFIX + length as usize;
    let Some(head) = record.get(PREFIX..end) else { return Err(cut) };
    let head: Head = postcard::from_bytes(head)?;
    Ok(head.with_body(record.slice(end..)))
}

const PREFIX: usize = 5;

/// An event but for its body.
#[derive(Serialize)]
struct HeadRef<'a> {
    id: EventId,
    tenant: TenantId,
    source: SourceId,
    revision: Revision,
    accepted_at: Timestamp,
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    headers: &'a [Header],
    pins: &'a [Pin],
    trace: Option<TraceContext>,
}

impl<'a> HeadRef<'a> {
    fn of(event: &'a Event) -> Self {
        let Event { id, tenant, source, revision, accepted_at, request, pins, trace } = event;
        let Request { method, path, query, headers, body: _ } = request;
        Self {
            id: *id,
            tenant: *tenant,
            source: *source,
            revision: *revision,
            accepted_at: *accepted_at,
            method,
            path,
            query: query.as_deref(),
            headers,
            pins,
            trace: *trace,
        }
    }
}

/// The owned twin of [`HeadRef`]: the same fields in the same order.
#[derive(Deserialize)]
struct Head {
    id: EventId,
    tenant: TenantId,
    source: SourceId,
    revision: Revision,
    accepted_at: Timestamp,
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<Header>,
    pins: Vec<Pin>,
    trace: Option<TraceContext>,
}

impl Head {
    fn with_body(self, body: Bytes) -> Event {
        let Self { id, tenant, source, revision, accepted_at, method, path, query, headers, pins, trace } = self;
        let request = Request { method, path, query, headers, body };
        Event { id, tenant, source, revision, accepted_at, request, pins, trace }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConnectionId, VersionHash};
    use super::*;

    #[test]
    fn events_come_back_byte_exact_and_share_the_buffer() {
        let event = Event {
            id: EventId(1),
            tenant: TenantId(2),
            source: SourceId(3),
            revision: Revision(4),
            accepted_at: Timestamp(5),
            request: Request {
                method: "POST".into(),
                path: "/a".into(),
                query: Some("b=c&b=d".into()),
                headers: vec![
                    Header { name: "x".into(), value: Bytes::from_static(b"\xff1") },
                    Header { name: "x".into(), value: Bytes::from_static(b"2") },
                ],
                body: Bytes::from_static(b"\0\xfe"),
            },
            pins: vec![Pin { connection: ConnectionId(6), versions: vec![VersionHash([7; 32])] }],
            trace: Some(TraceContext { trace_id: 8, span_id: 9, sampled: true }),
        };
        let record = Bytes::from(encode_event(&event));
        let back = decode_event(&record).expect("reads its own format");
        assert_eq!(back, event);
        assert!(record.as_ptr_range().contains(&back.request.body.as_ptr()));
        for cut in 0..record.len() - 2 {
            assert!(decode_event(&record.slice(..cut)).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_was_added_is_read_by_who_knows_of_it() {
        let record = encode_with(&7_u64, &"more");
        assert_eq!(decode::<u64>(&record).expect("reads what it knows"), 7);
        assert_eq!(decode_with::<u64, String>(&record).expect("reads all"), (7, Some("more".to_owned())));
        assert_eq!(decode_with::<u64, String>(&encode(&7_u64)).expect("reads the older form"), (7, None));
        assert!(decode_with::<u64, String>(&record[..record.len() - 1]).is_err(), "cut");
    }

    #[test]
    fn a_newer_record_is_refused_by_name() {
        let error = decode::<u64>(&[FORMAT + 1, 0]).unwrap_err();
        assert!(matches!(error, DecodeError::Newer(2)), "{error}");
    }
}
