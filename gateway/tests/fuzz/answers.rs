//! Whatever a plugin leaves in its memory as its answer becomes requests that can be sent, or an error of the plugin's.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, Method, Uri};
use rand::RngExt;
use rand::rngs::StdRng;
use tidegate::event::{Party, Request};
use tidegate::plugin::{Call, Limits};

use crate::fixture::{Sandbox, call};
use crate::guest::transform;
use crate::{Cases, mutate, one};

/// Where the answer is put.
const ANSWER: usize = 8;
const TEXTS: [&[u8]; 18] = [
    b"",
    b"POST",
    b"GET",
    b"CONNECT",
    b"/a",
    b"/a/../b",
    b"/%2e%2E/",
    b"a b",
    b"\r\nx: y",
    b"host",
    b"Webhook-Id",
    b"x-a",
    b"content-length",
    b"\xff\xfe",
    b"a=b&c",
    b"#",
    b"\0",
    b"application/json",
];

/// The memory of a guest from [`ANSWER`] on, being written.
struct Memory(Vec<u8>);

impl Memory {
    fn number(&mut self, at: usize, value: usize) {
        self.0[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
    }

    /// Room at the end; its place in [`Memory::0`].
    fn room(&mut self, bytes: usize) -> usize {
        let at = self.0.len().next_multiple_of(4);
        self.0.resize(at + bytes, 0);
        at
    }

    /// An address and a length.
    fn list(&mut self, at: usize, place: usize, length: usize) {
        self.number(at, place + ANSWER);
        self.number(at + 4, length);
    }

    fn text(&mut self, at: usize, random: &mut StdRng) {
        let text = *one(&TEXTS, random);
        let place = self.room(text.len());
        self.0[place..place + text.len()].copy_from_slice(text);
        self.list(at, place, text.len());
    }

    /// Present or not: a tag, then an address and a length.
    fn option(&mut self, at: usize, random: &mut StdRng) {
        if random.random() {
            self.0[at] = 1;
            self.text(at + 4, random);
        }
    }
}

/// `result<list<output>, failure>`, by the canonical ABI of `sdk/wit`.
fn answer(random: &mut StdRng) -> Vec<u8> {
    let mut memory = Memory(vec![0; 12]);
    let count = random.random_range(0..4);
    let outputs = memory.room(count * 64);
    memory.list(4, outputs, count);
    for output in (0..count).map(|number| outputs + number * 64) {
        memory.option(output, random);
        memory.option(output + 12, random);
        memory.0[output + 24] = random.random_range(0..3);
        memory.text(output + 28, random);
        let changes = random.random_range(0..4);
        let headers = memory.room(changes * 20);
        memory.list(output + 36, headers, changes);
        for change in (0..changes).map(|number| headers + number * 20) {
            memory.0[change] = random.random_range(0..4);
            memory.text(change + 4, random);
            memory.text(change + 12, random);
        }
        memory.option(output + 44, random);
    }
    let mut bytes = memory.0;
    if random.random_range(0..3) > 0 {
        mutate(&mut bytes, random);
    }
    bytes.truncate(60_000);
    bytes
}

fn check(request: &Request, original: &Request) {
    let Request { method, path, query, headers, .. } = request;
    assert!(Method::from_bytes(method.as_bytes()).is_ok() && method != "CONNECT", "{request:?}");
    let query = query.as_ref().map_or_else(String::new, |query| format!("?{query}"));
    let target = format!("http://destination.example/hook{path}{query}");
    let uri: Uri = target.parse().unwrap_or_else(|error| panic!("{error}: {request:?}"));
    assert_eq!(uri.host(), Some("destination.example"), "{request:?}");
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/");
    assert!(plain.split('/').all(|segment| segment != ".." && segment != "."), "{request:?}");
    for header in headers.iter().filter(|header| !original.headers.contains(header)) {
        HeaderName::from_bytes(header.name.as_bytes()).unwrap();
        HeaderValue::from_bytes(&header.value).unwrap();
        let reserved = ["host", "content-length", "authorization", "cookie", "transfer-encoding"];
        assert!(!reserved.contains(&&header.name[..]) && !header.name.starts_with("webhook-"), "{request:?}");
    }
}

#[tokio::test]
async fn any_answer_becomes_requests_that_can_be_sent_or_an_error() {
    let sandbox = Sandbox::new();
    // It answers with the event's body: the address is its 13th parameter, the length its 14th.
    let copies = "(memory.copy (i32.const 8) (local.get 12) (local.get 13)) (i32.const 8)";
    let version = sandbox.add(transform("", copies));
    let limits = Limits { outputs: 3, output_bytes: 4_000, ..Limits::default() };
    let mut ended = BTreeMap::<String, u64>::new();
    Cases::new(3_000)
        .run(async |random| {
            let call = Call { limits: limits.clone(), ..call(version, answer(random)) };
            let original = call.request.clone().into_request();
            match sandbox.runtime.transform(call).await.result {
                Ok(requests) => {
                    assert!(requests.len() <= limits.outputs, "{requests:?}");
                    assert!(requests.iter().map(Request::size).sum::<usize>() <= limits.output_bytes, "{requests:?}");
                    requests.iter().for_each(|request| check(request, &original));
                    *ended.entry(format!("{} requests", requests.len())).or_default() += 1;
                }
                Err(error) => {
                    assert_eq!(error.party(), Party::Plugin, "{error}");
                    *ended.entry(error.code().to_owned()).or_default() += 1;
                }
            }
        })
        .await;
    println!("{ended:?}");
    let all = ["1 requests", "output_invalid", "output_unreadable"].iter().all(|end| ended.contains_key(*end));
    assert!(all || ended.values().sum::<u64>() < 1000, "{ended:?}");
}
