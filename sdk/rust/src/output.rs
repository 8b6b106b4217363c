//! Saying what goes out.

use serde::Serialize;

pub use crate::glue::filter::tidegate::plugin::types::{Output, QueryChange};

use crate::glue::filter::tidegate::plugin::types::HeaderChange;
use crate::{Failure, Header};

impl Output {
    /// The request as it came in; what follows changes it.
    pub fn new() -> Self {
        Self { method: None, path: None, query: QueryChange::Keep, headers: Vec::new(), body: None, attributes: Vec::new() }
    }

    /// Another method.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.method = Some(method.into());
        self
    }

    /// Another path, which the gateway appends to the destination's.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Another query: raw, without `?`.
    pub fn query(mut self, query: impl Into<String>) -> Self {
        self.query = QueryChange::Set(query.into());
        self
    }

    /// No query.
    pub fn remove_query(mut self) -> Self {
        self.query = QueryChange::Remove;
        self
    }

    /// Leaves exactly one line with this name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(HeaderChange::Set(Header { name: name.into(), value: value.into() }));
        self
    }

    /// Adds a line, whatever is there already.
    pub fn append_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(HeaderChange::Append(Header { name: name.into(), value: value.into() }));
        self
    }

    /// Removes every line with this name.
    pub fn remove_header(mut self, name: impl Into<String>) -> Self {
        self.headers.push(HeaderChange::Remove(name.into()));
        self
    }

    /// Removes every header that came in. Headers set before this call go too.
    pub fn clear_headers(mut self) -> Self {
        self.headers.push(HeaderChange::Clear);
        self
    }

    /// Another body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// A JSON body, with `content-type: application/json`.
    pub fn json(self, value: &impl Serialize) -> Result<Self, Failure> {
        let body = serde_json::to_vec(value).map_err(|error| Failure::never("not-serialisable", error.to_string()))?;
        Ok(self.header("content-type", "application/json").body(body))
    }
}

impl Default for Output {
    fn default() -> Self {
        Self::new()
    }
}
