//! The Retry-After header (RFC 9110, 10.2.3): seconds, or a date. Pure.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::clock::Timestamp;

/// The point in time that a response asks to be left alone until. What is malformed asks for nothing.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim_ascii();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit mean "very long", and whoever plans the retry clamps it.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(now.after(Duration::from_secs(seconds)));
    }
    httpdate::parse_http_date(value).ok().map(Timestamp::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: &'static str) -> Option<Timestamp> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static(value))]);
        retry_after(&headers, Timestamp(1_000_000))
    }

    #[test]
    fn both_forms_are_read_and_nonsense_is_not() {
        assert_eq!(at("120"), Some(Timestamp(1_120_000)));
        assert_eq!(at(" 0 "), Some(Timestamp(1_000_000)));
        assert_eq!(at("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Timestamp(946_684_799_000)));
        assert_eq!(at("99999999999999999999999"), Some(Timestamp(u64::MAX)));
        for nonsense in ["", "-1", "1.5", "soon", "+5"] {
            assert_eq!(at(nonsense), None, "{nonsense}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), Timestamp(0)), None);
    }
}
