//! What verifying, answering, signing and judging are about.

use crate::{Header, Response};

pub use crate::glue::judge::exports::tidegate::plugin::judge::Verdict as Judgement;
pub use crate::glue::verify::exports::tidegate::plugin::verify::Verdict as Verification;

impl Response {
    /// An answer with this status and a body of plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        let headers = vec![Header { name: "content-type".into(), value: b"text/plain; charset=utf-8".to_vec() }];
        Self { status, headers, body: body.into().into_bytes(), attributes: Vec::new() }
    }

    /// The first value of a header, if it is UTF-8; the name's case does not matter.
    pub fn header_str(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(&header.value).ok()
    }
}
