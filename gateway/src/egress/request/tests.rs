use proptest::prelude::*;

use super::*;
use crate::egress::policy::AddressPolicy;
use crate::egress::target::{Speaks, TargetConfig, TlsOptions};
use crate::event::{DestinationId, Revision, TenantId};

fn target(url: &str, append: bool) -> Arc<Target> {
    let config = TargetConfig {
        tenant: TenantId(1),
        destination: DestinationId(1),
        revision: Revision(1),
        url: url.to_owned(),
        append_path: append,
        append_query: append,
        tls: TlsOptions::default(),
        speaks: Speaks::Http,
    };
    Arc::new(Target::new(&config, &AddressPolicy::default()).unwrap())
}

fn request(path: &str, query: Option<&str>, headers: &[(&str, &[u8])]) -> Request {
    Request {
        method: "POST".to_owned(),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        headers: headers
            .iter()
            .map(|(name, value)| Header { name: (*name).to_owned(), value: Bytes::copy_from_slice(value) })
            .collect(),
        body: Bytes::from_static(b"body"),
    }
}

fn made(target: &Arc<Target>, request: &Request) -> Result<OutRequest, RequestError> {
    OutRequest::new(target, request, Duration::from_secs(1))
}

fn path(url: &str, path: &str, query: Option<&str>) -> Result<String, RequestError> {
    made(&target(url, true), &request(path, query, &[])).map(|out| out.path_and_query.to_string())
}

#[test]
fn path_and_query_stay_the_targets_own_unless_asked_for() {
    let closed = target("https://example.com/hooks/?token=1", false);
    let out = made(&closed, &request("/a/../b", Some("q=1"), &[])).unwrap();
    assert_eq!(out.path_and_query, "/hooks/?token=1");
}

#[test]
fn path_and_query_are_appended_when_asked_for() {
    assert_eq!(path("https://example.com/hooks", "", None).unwrap(), "/hooks");
    assert_eq!(path("https://example.com/hooks/", "", None).unwrap(), "/hooks/");
    assert_eq!(path("https://example.com/hooks", "/a/b", None).unwrap(), "/hooks/a/b");
    assert_eq!(path("https://example.com/hooks/", "/a/", Some("x=%41&y")).unwrap(), "/hooks/a/?x=%41&y");
    assert_eq!(path("https://example.com/hooks?k=1", "/a", Some("x=1")).unwrap(), "/hooks/a?k=1&x=1");
    assert_eq!(path("https://example.com", "/a%2Fb;v=1/...", Some("")).unwrap(), "/a%2Fb;v=1/...");
    // Two slashes at the beginning would read as another host.
    assert_eq!(path("https://example.com", "//evil.example/x", None).unwrap(), "/evil.example/x");
}

#[test]
fn a_path_cannot_leave_the_targets() {
    let escapes = [
        "/..",
        "/../admin",
        "/a/../../admin",
        "/.",
        "/a/./b",
        "/%2e%2e/admin",
        "/.%2E/admin",
        "/%252e%252e/admin",
        "/%25252e%25252e/admin",
        "/..%2fadmin",
        "/a%2f..%2f..%2fadmin",
        "/..%5cadmin",
        "/..\\admin",
        "/..;/admin",
        "/..;x=1/admin",
        "/..%3b/admin",
        "/..%00/admin",
        "/%20../admin",
        "/%c0%ae%c0%ae/admin",
        "/a%0d%0aHost:x",
        "/%2525252525252e/admin",
    ];
    for escape in escapes {
        assert_eq!(path("https://example.com/hooks", escape, None), Err(RequestError::PathEscapes), "{escape}");
    }
    for malformed in ["/a?b", "/a#b", "/a b"] {
        assert_eq!(path("https://example.com/hooks", malformed, None), Err(RequestError::Path), "{malformed}");
    }
    assert_eq!(path("https://example.com/hooks", "/a", Some("x#y")), Err(RequestError::Path));
    assert_eq!(path("https://example.com/hooks", &"/a".repeat(MAX_PATH), None), Err(RequestError::Path));
}

#[test]
fn headers_are_passed_on_but_for_those_that_end_here() {
    let lines: &[(&str, &[u8])] = &[
        ("content-type", b"application/json"),
        ("x-many", b"1"),
        ("x-many", b"2"),
        ("x-bytes", b"\xff\xfe"),
        ("x-github-event", b"push"),
        ("connection", b"keep-alive, X-Hop"),
        ("x-hop", b"1"),
        ("Authorization", b"secret"),
        ("WEBHOOK-ID", b"forged"),
        ("webhook-signature", b"forged"),
        ("user-agent", b"GitHub-Hookshot"),
    ];
    let mut lines = lines.to_vec();
    lines.extend(DROPPED.iter().filter(|name| **name != "connection").map(|name| (*name, &b"x"[..])));
    let out = made(&target("https://example.com", false), &request("", None, &lines)).unwrap();
    let kept: Vec<(&str, &[u8])> = out.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let agent = concat!("Tidegate/", env!("CARGO_PKG_VERSION"));
    let wanted: [(&str, &[u8]); 6] = [
        ("content-type", b"application/json"),
        ("x-many", b"1"),
        ("x-many", b"2"),
        ("x-bytes", b"\xff\xfe"),
        ("x-github-event", b"push"),
        ("user-agent", agent.as_bytes()),
    ];
    assert_eq!(kept, wanted);
    assert_eq!(out.body, "body");
}

#[test]
fn the_list_of_what_ends_here_is_searched_by_halves() {
    assert!(DROPPED.is_sorted());
}

#[test]
fn what_cannot_be_sent_is_named() {
    let target = target("https://example.com", false);
    let with = |headers: &[(&str, &[u8])]| made(&target, &request("", None, headers)).unwrap_err();
    assert_eq!(with(&[("x", b"1"), ("x y", b"1")]), RequestError::Header { index: 1 });
    assert_eq!(with(&[("x", b"a\r\nb: c")]), RequestError::Header { index: 0 });
    assert_eq!(with(&vec![("x", &b"1"[..]); MAX_HEADERS + 1]), RequestError::TooManyHeaders);
    for method in ["", "CONNECT", "TRACE", "A B"] {
        let request = Request { method: method.to_owned(), ..request("", None, &[]) };
        let error = made(&target, &request).unwrap_err();
        assert_eq!((error.clone(), error.failure().retryable), (RequestError::Method, false), "{method}");
    }
}

/// What a server that decodes and normalises as often as it likes makes of a path.
fn resolved(path: &str) -> Option<Vec<String>> {
    let mut text = path.to_owned();
    for _ in 0..8 {
        text = percent_decode(text.as_bytes()).decode_utf8_lossy().into_owned();
    }
    let mut stack: Vec<String> = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default().trim() {
            ".." => drop(stack.pop()?),
            "." | "" => {}
            name => stack.push(name.to_owned()),
        }
    }
    Some(stack)
}

proptest! {
    #[test]
    fn what_is_accepted_stays_below_however_it_is_read(path_text in "(/|\\\\|\\.|%2e|%252E|%2f|%5C|%25|;|a|b|%c0%ae| ){0,12}") {
        if let Ok(whole) = path("https://example.com/base/own", &format!("/{path_text}"), None) {
            let stack = resolved(&whole);
            prop_assert!(stack.as_ref().is_some_and(|stack| stack.starts_with(&["base".to_owned(), "own".to_owned()])), "{whole} {stack:?}");
        }
    }

    #[test]
    fn nothing_panics(path_text in "\\PC{0,40}", query in "\\PC{0,40}", name in "\\PC{0,10}", value in prop::collection::vec(any::<u8>(), 0..20)) {
        let _ = made(&target("https://example.com/base", true), &request(&path_text, Some(&query), &[(&name, &value)]));
    }
}
