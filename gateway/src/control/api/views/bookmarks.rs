use serde::Serialize;
use utoipa::ToSchema;

use super::{RequestView, shown};
use crate::event::{EventId, Request};
use crate::store::{BookmarkHead, BookmarkName};

/// An event that is kept under a name.
#[derive(Debug, Serialize, ToSchema)]
pub struct BookmarkView {
    name: String,
    /// What it is for; may be empty.
    note: String,
    /// The event that it was made of; history may not know it any more.
    event: String,
    /// Where that came in.
    source: String,
    /// When that was accepted.
    accepted_at: String,
    /// Bytes, as `plan.bookmark_bytes` counts them.
    bytes: u64,
    created_at: String,
    /// `operator`, or the name of the API key.
    by: String,
    /// What came in; only when one bookmark is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestView>,
}

impl BookmarkView {
    pub(in crate::control::api) fn of(name: &BookmarkName, head: &BookmarkHead) -> Self {
        Self {
            name: name.to_string(),
            note: head.note.clone(),
            event: head.event.to_string(),
            source: head.source.to_string(),
            accepted_at: shown(head.accepted_at),
            bytes: head.bytes,
            created_at: shown(head.made_at),
            by: head.by.clone(),
            request: None,
        }
    }

    pub(in crate::control::api) fn with(self, request: &Request) -> Self {
        Self { request: Some(RequestView::of(request)), ..self }
    }
}

/// The event that a bookmark became.
#[derive(Debug, Serialize, ToSchema)]
pub struct SentView {
    /// Its id.
    id: String,
}

impl SentView {
    pub(in crate::control::api) fn of(id: EventId) -> Self {
        Self { id: id.to_string() }
    }
}
