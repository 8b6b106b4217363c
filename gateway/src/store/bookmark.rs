//! Bookmarks: copies of events under names of their tenant's, kept until somebody takes them away.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{DecodeError, Event, EventId, SourceId, decode, decode_event, encode, encode_event};

/// The longest name, in bytes.
pub const MAX_BOOKMARK_NAME: usize = 64;

/// A bookmark's name: 1 to [`MAX_BOOKMARK_NAME`] of `a-z`, `A-Z`, `0-9`, `.`, `_` and `-`, but not dots alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BookmarkName(String);

/// A text that is no bookmark's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MAX_BOOKMARK_NAME} letters, digits, `.`, `_` or `-`, and not dots alone")]
pub struct BookmarkNameError;

impl BookmarkName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BookmarkName {
    type Err = BookmarkNameError;

    fn from_str(text: &str) -> Result<Self, BookmarkNameError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_name = (1..=MAX_BOOKMARK_NAME).contains(&text.len()) && text.chars().all(plain) && text.chars().any(|c| c != '.');
        is_name.then(|| Self(text.to_owned())).ok_or(BookmarkNameError)
    }
}

impl fmt::Display for BookmarkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a bookmark says of its event, without the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookmarkHead {
    /// When it was made.
    pub made_at: Timestamp,
    /// Who made it.
    pub by: String,
    /// What it is for; may be empty.
    pub note: String,
    /// The event that it was made of.
    pub event: EventId,
    /// Where that came in.
    pub source: SourceId,
    /// When that was accepted.
    pub accepted_at: Timestamp,
    /// What the copy counts in [`BookmarkLimits::bytes`]: its stored form.
    pub bytes: u64,
}

/// A bookmark with its copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// What it says.
    pub head: BookmarkHead,
    /// The event as it was accepted.
    pub event: Event,
}

/// How many bookmarks a tenant may have, and how large they may be altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookmarkLimits {
    /// At most this many.
    pub count: u64,
    /// At most so many bytes of [`BookmarkHead::bytes`].
    pub bytes: u64,
}

/// What became of a bookmark that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bookmarked {
    /// It is kept; or it was already, word for word.
    Kept,
    /// The name is another one's.
    Taken,
    /// There are as many as there may be.
    TooMany,
    /// The copies would be larger than they may be.
    TooLarge,
}

/// A bookmark as engines keep it: its head apart, so that a listing reads no copies.
pub(super) struct StoredBookmark {
    pub(super) head: Vec<u8>,
    pub(super) event: Vec<u8>,
}

impl StoredBookmark {
    pub(super) fn of(bookmark: &Bookmark) -> Self {
        Self { head: encode(&bookmark.head), event: encode_event(&bookmark.event) }
    }

    /// What it counts.
    pub(super) fn bytes(&self) -> u64 {
        self.event.len() as u64
    }
}

impl Bookmark {
    /// A bookmark of an event.
    pub fn new(event: Event, made_at: Timestamp, by: String, note: String) -> Self {
        let bytes = encode_event(&event).len() as u64;
        let Event { id, source, accepted_at, .. } = event;
        Self { head: BookmarkHead { made_at, by, note, event: id, source, accepted_at, bytes }, event }
    }

    pub(super) fn read(head: &[u8], event: bytes::Bytes) -> Result<Self, DecodeError> {
        Ok(Self { head: decode(head)?, event: decode_event(&event)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_into_a_path() {
        for name in ["a", "order.created-2", "UPPER_1", &"x".repeat(64)] {
            assert!(name.parse::<BookmarkName>().is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "\u{e9}", &"x".repeat(65)] {
            assert!(name.parse::<BookmarkName>().is_err(), "{name}");
        }
    }
}
