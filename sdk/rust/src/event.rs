//! Reading what came in.

use serde::Deserialize;

use crate::{Failure, Request};

impl Request {
    /// The body, read as JSON. Fails with `not-json`, which no retry can help.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| Failure::never("not-json", format!("the body: {error}")))
    }

    /// The first value of a header; the name's case does not matter.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| &header.value[..])
    }

    /// The first value of a header, if it is UTF-8.
    pub fn header_str(&self, name: &str) -> Option<&str> {
        self.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every value of a header, in order; the name's case does not matter.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| &header.value[..])
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::event;

    #[test]
    fn repeated_headers_are_found_in_order_whatever_the_case() {
        let event = event("{}").with_header("x-a", "1").with_header("x-b", "2").with_header("x-a", b"\xff");
        let values: Vec<_> = event.request.headers("X-A").collect();
        assert_eq!(values, [&b"1"[..], b"\xff"]);
        assert_eq!(event.request.header_str("x-b"), Some("2"));
        assert_eq!(event.request.header("x-c"), None);
    }

    #[test]
    fn a_body_that_is_not_json_fails_for_good() {
        let failure = event("nope").request.json::<u8>().unwrap_err();
        assert_eq!(failure.code, "not-json");
        assert_eq!(failure.retry, crate::Retry::Never);
    }
}
