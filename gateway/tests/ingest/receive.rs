//! What becomes of a request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate::control::snapshot::{DedupBy, DedupRule, Plan, Snapshot, Source, Tenant};
use tidegate::event::{Header, Lane, Revision, TraceContext};
use tidegate::ingest::verify::{Verifier, VerifierConfig};
use tidegate::store::StoreError;
use tokio::net::TcpStream;

use crate::stub::Mode;
use crate::world::{DEADLINE, NOW, PLAN, REVISION, SOURCE, Setup, TENANT, World, post, source};

fn with(change: impl FnOnce(&mut Source)) -> Setup {
    let mut source = source();
    change(&mut source);
    Setup { source, ..Setup::default() }
}

fn header(name: &str, value: &[u8]) -> Header {
    Header { name: name.into(), value: Bytes::copy_from_slice(value) }
}

#[tokio::test]
async fn an_event_is_the_request_byte_for_byte() {
    let world = World::start(Setup::default()).await;
    let body: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let mut request = format!("PATCH /in/{SOURCE}/a%2Fb//c/?q=%20+&q=2&empty HTTP/1.1\r\n").into_bytes();
    request.extend_from_slice(b"Host: example.test\r\nX-Repeat: one\r\nX-Other: \xff\xfe \t end\r\nx-repeat: \r\n");
    request.extend_from_slice(b"X-REPEAT: two, three\r\nContent-Length: 3000\r\n\r\n");
    request.extend_from_slice(&body);
    let response = world.send(&request).await;
    assert_eq!(response.status, 202, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"));
    let event = &world.store.events()[0];
    assert_eq!(response.json(), serde_json::json!({ "id": event.id.to_string() }));
    assert_eq!((event.tenant, event.source, event.revision, event.accepted_at), (TENANT, SOURCE, REVISION, NOW));
    assert_eq!(event.id.made_at(), NOW);
    assert_eq!(event.request.method, "PATCH");
    assert_eq!(event.request.path, "/a%2Fb//c/");
    assert_eq!(event.request.query.as_deref(), Some("q=%20+&q=2&empty"));
    assert_eq!(event.request.body, body);
    let expected = [
        header("host", b"example.test"),
        header("x-repeat", b"one"),
        header("x-repeat", b""),
        header("x-repeat", b"two, three"),
        header("x-other", b"\xff\xfe \t end"),
        header("content-length", b"3000"),
    ];
    assert_eq!(event.request.headers, expected);
}

#[tokio::test]
async fn any_method_and_an_empty_path_and_body_are_fine() {
    let world = World::start(Setup::default()).await;
    for (at, method) in ["GET", "PUT", "DELETE", "OPTIONS", "BREW"].into_iter().enumerate() {
        let response = world.send(format!("{method} /in/{SOURCE} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
        assert_eq!(response.status, 202, "{method}: {response:?}");
        let event = &world.store.events()[at];
        assert_eq!((event.request.method.as_str(), event.request.path.as_str()), (method, ""));
        assert_eq!((&event.request.query, event.request.body.len()), (&None, 0));
    }
}

#[tokio::test]
async fn bodies_in_pieces_and_in_chunks_come_out_whole() {
    let world = World::start(Setup::default()).await;
    let body: Vec<u8> = (0..=250).cycle().take(700_000).collect();
    let mut connection = world.connect().await;
    connection.write(&post("", &body)).await;
    assert_eq!(connection.response().await.status, 202);
    connection.write(format!("POST /in/{SOURCE} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes()).await;
    for piece in body.chunks(60_001) {
        connection.write(format!("{:x}\r\n", piece.len()).as_bytes()).await;
        connection.write(piece).await;
        connection.write(b"\r\n").await;
    }
    connection.write(b"0\r\nx-trailer: 1\r\n\r\n").await;
    assert_eq!(connection.response().await.status, 202);
    let events = world.store.events();
    assert!(events.iter().all(|event| event.request.body == body));
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn what_names_no_source_gets_one_and_the_same_404() {
    let world = World::start(Setup::default()).await;
    let mut answers = Vec::new();
    for path in ["/in/src_01j9zzzzzzzzzzzzzzzzzzzzzz", "/in/src_nonsense", "/in/", "/", "/in/../admin", "/v1/tenants"] {
        let response = world.send(format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi").as_bytes()).await;
        assert_eq!((response.status, response.code().as_str()), (404, "unknown_source"), "{path}");
        answers.push(response.body);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(world.store.events().is_empty());
}

#[tokio::test]
async fn a_source_says_which_methods_it_takes() {
    let world = World::start(with(|source| source.methods = Some(vec![Method::POST, Method::PUT]))).await;
    let response = world.send(format!("GET /in/{SOURCE} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
    assert_eq!((response.status, response.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(response.header("allow"), Some("POST, PUT"));
    assert_eq!(world.send(&post("", b"")).await.status, 202);
}

#[tokio::test]
async fn a_disabled_source_keeps_nothing() {
    let world = World::start(with(|source| source.enabled = false)).await;
    let response = world.send(&post("", b"x")).await;
    assert_eq!((response.status, response.code().as_str()), (403, "source_disabled"));
    assert!(world.store.events().is_empty());
}

#[tokio::test]
async fn what_verification_refuses_is_named_and_not_kept_and_credentials_are_not_stored() {
    let config: VerifierConfig = serde_json::from_value(serde_json::json!({
        "type": "api_key", "header": "x-key", "keys": ["the-right-one"],
    }))
    .expect("a configuration");
    let verifier = Arc::new(Verifier::new(&config).expect("a verifier"));
    let world = World::start(with(|source| source.verifier = verifier)).await;
    let missing = world.send(&post("", b"x")).await;
    assert_eq!((missing.status, missing.code().as_str()), (401, "missing_header"));
    let wrong = world.send(&post("x-key: a-wrong-one\r\n", b"x")).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (401, "wrong_key"));
    assert!(!String::from_utf8_lossy(&wrong.body).contains("one"), "{wrong:?}");
    assert!(world.store.events().is_empty());
    assert_eq!(world.send(&post("x-key: the-right-one\r\n", b"x")).await.status, 202);
    assert_eq!(world.store.events()[0].request.header("x-key"), None);
}

#[tokio::test]
async fn duplicates_get_the_first_id() {
    let rule = |by| Some(DedupRule { by, window: Duration::from_secs(60) });
    let by_header = rule(DedupBy::Header("x-id".parse().unwrap()));
    let world = World::start(with(|source| source.dedup = by_header)).await;
    let first = world.send(&post("x-id: 1\r\n", b"a")).await.json();
    let again = world.send(&post("x-id: 1\r\n", b"b")).await;
    assert_eq!(again.status, 202);
    assert_eq!(again.json(), serde_json::json!({ "id": first["id"], "duplicate": true }));
    assert_eq!(world.send(&post("x-id: 2\r\n", b"a")).await.json().get("duplicate"), None);
    for _ in 0..2 {
        assert_eq!(world.send(&post("", b"no value")).await.json().get("duplicate"), None);
    }
    assert_eq!(world.store.events().len(), 4);

    let world = World::start(with(|source| source.dedup = rule(DedupBy::Pointer("/a/0".into())))).await;
    let first = world.send(&post("", br#"{"a":["x"]}"#)).await.json();
    let again = world.send(&post("", br#"{"b":1,"a":["x"]}"#)).await.json();
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &true.into()));
}

#[tokio::test]
async fn a_tenant_over_its_throughput_goes_to_the_low_lane() {
    let plan = Plan { rate: 1.0, burst: 2, ..PLAN };
    let world = World::start(with(|source| {
        let tenant = Tenant { plan, ..(*source.tenant).clone() };
        source.tenant = Arc::new(tenant);
    }))
    .await;
    for _ in 0..4 {
        assert_eq!(world.send(&post("", b"x")).await.status, 202);
    }
    assert_eq!(world.store.lanes(), [Lane::Normal, Lane::Normal, Lane::Low, Lane::Low]);
}

#[tokio::test]
async fn a_tenant_that_is_gone_is_forgotten_with_the_next_revision() {
    let plan = Plan { rate: 0.001, ..PLAN };
    let world = World::start(with(|source| source.tenant = Arc::new(Tenant { plan, ..(*source.tenant).clone() }))).await;
    for _ in 0..2 {
        assert_eq!(world.send(&post("", b"x")).await.status, 202);
    }
    assert_eq!(world.store.lanes(), [Lane::Normal, Lane::Low]);
    // The source is still there, so that it can be seen that its tenant's bucket is a new one.
    let next = Snapshot { revision: Revision(REVISION.0 + 1), ..(*world.snapshots.current()).clone() };
    world.snapshots.publish(next);
    tidegate_test_support::eventually("the bucket is a new one", DEADLINE, async || {
        assert_eq!(world.send(&post("", b"x")).await.status, 202);
        (world.store.lanes().last() == Some(&Lane::Normal)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_source_that_goes_while_its_body_comes_takes_nothing() {
    let world = World::start(Setup::default()).await;
    let mut connection = world.connect().await;
    let request = post("", b"12345");
    connection.write(&request[..request.len() - 1]).await;
    // Another request on another connection: the first one's head has been read by then.
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    world.snapshots.publish(Snapshot { revision: Revision(REVISION.0 + 1), ..Snapshot::default() });
    connection.write(&request[request.len() - 1..]).await;
    let response = connection.response().await;
    assert_eq!((response.status, response.code().as_str()), (404, "unknown_source"));
    assert_eq!(world.store.events().len(), 1);
}

#[tokio::test]
async fn a_store_that_fails_is_503_with_retry_after() {
    let errors = [
        (StoreError::Unavailable("redis at 10.0.0.7 said no".into()), "store_unavailable"),
        (StoreError::Full("oom".into()), "store_full"),
    ];
    for (error, code) in errors {
        let world = World::start(Setup { mode: Mode::Fail(error), ..Setup::default() }).await;
        let response = world.send(&post("", b"x")).await;
        assert_eq!((response.status, response.code().as_str()), (503, code));
        let after: u64 = response.header("retry-after").expect("retry-after").parse().expect("seconds");
        assert!((1..=5).contains(&after), "{after}");
        assert!(!String::from_utf8_lossy(&response.body).contains("10.0.0.7"), "{response:?}");
    }
}

#[tokio::test]
async fn expect_continue_is_answered_before_the_body() {
    let world = World::start(Setup::default()).await;
    let mut connection = world.connect().await;
    let head = format!("POST /in/{SOURCE} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    connection.write(head.as_bytes()).await;
    assert_eq!(connection.response().await.status, 100);
    connection.write(b"body").await;
    assert_eq!(connection.response().await.status, 202);
}

#[tokio::test]
async fn many_requests_on_one_connection() {
    let world = World::start(Setup::default()).await;
    let mut connection = world.connect().await;
    for at in 0..100u32 {
        connection.write(&post("", &at.to_be_bytes())).await;
        assert_eq!(connection.response().await.status, 202);
    }
    let pipelined: Vec<u8> = (100..110u32).flat_map(|at| post("", &at.to_be_bytes())).collect();
    connection.write(&pipelined).await;
    for _ in 0..10 {
        assert_eq!(connection.response().await.status, 202);
    }
    let bodies: Vec<Bytes> = world.store.events().into_iter().map(|event| event.request.body).collect();
    assert_eq!(bodies, (0..110u32).map(|at| Bytes::copy_from_slice(&at.to_be_bytes())).collect::<Vec<_>>());
}

#[tokio::test]
async fn http2_by_prior_knowledge() {
    let world = World::start(Setup::default()).await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
    let driver = tokio::spawn(connection);
    let body = Bytes::from(vec![7; 400_000]);
    let request = http::Request::post(format!("http://gateway.test/in/{SOURCE}/x?y"))
        .header("x-repeat", "1")
        .header("x-repeat", "2")
        .body(Full::new(body.clone()))
        .unwrap();
    client.ready().await.unwrap();
    let response = client.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), 202);
    #[allow(clippy::disallowed_methods)] // Our own answer.
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    let event = &world.store.events()[0];
    assert_eq!(answer, format!(r#"{{"id":"{}"}}"#, event.id));
    assert_eq!((event.request.path.as_str(), event.request.query.as_deref()), ("/x", Some("y")));
    assert_eq!(event.request.body, body);
    let expected =
        [header("host", b"gateway.test"), header("x-repeat", b"1"), header("x-repeat", b"2"), header("content-length", b"400000")];
    assert_eq!(event.request.headers, expected);
    drop(client);
    driver.await.unwrap().expect("a clean end");
}

#[tokio::test]
async fn a_client_that_hangs_up_after_its_body_changes_nothing() {
    let world = World::start(Setup { mode: Mode::Hold, ..Setup::default() }).await;
    let mut connection = world.connect().await;
    connection.write(&post("", b"kept")).await;
    world.store.asked(1).await;
    drop(connection);
    world.store.set(Mode::Keep);
    world.acceptor.stop().await;
    assert_eq!(world.store.events()[0].request.body, "kept");
}

#[tokio::test]
async fn a_client_that_hangs_up_in_its_body_leaves_nothing() {
    let mut world = World::start(Setup::default()).await;
    let mut connection = world.connect().await;
    let whole = post("", &[1; 1000]);
    connection.write(&whole[..whole.len() - 1]).await;
    drop(connection);
    let store = world.store.clone();
    world.stop();
    assert_eq!(world.stopped().await.cut, 0);
    assert!(store.events().is_empty());
}

#[tokio::test]
async fn a_graceful_stop_finishes_what_is_in_flight_and_closes_the_rest() {
    let mut world = World::start(Setup { mode: Mode::Hold, ..Setup::default() }).await;
    let address = world.address;
    let (mut idle, mut busy) = (world.connect().await, world.connect().await);
    busy.write(&post("", b"in flight")).await;
    world.store.asked(1).await;
    world.stop();
    idle.closed().await;
    let store = world.store.clone();
    store.set(Mode::Keep);
    let response = busy.response().await;
    assert_eq!(response.status, 202);
    assert_eq!(response.header("connection"), Some("close"));
    busy.closed().await;
    assert_eq!(world.stopped().await.cut, 0);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    assert_eq!(store.events().len(), 1);
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_finish_in_time() {
    let mut setup = Setup { mode: Mode::Hold, ..Setup::default() };
    setup.limits.drain = Duration::from_millis(50);
    let mut world = World::start(setup).await;
    let mut busy = world.connect().await;
    busy.write(&post("", b"x")).await;
    world.store.asked(1).await;
    world.stop();
    assert_eq!(world.stopped().await.cut, 1);
    busy.closed().await;
}

#[tokio::test]
async fn a_trusted_senders_trace_goes_on_even_if_nobody_records() {
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let world = World::start(with(|source| source.trust_trace = true)).await;
    assert_eq!(world.send(&post(parent, b"x")).await.status, 202);
    let expected =
        TraceContext { trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span_id: 0xb7ad_6b71_6920_3331, sampled: true };
    assert_eq!(world.store.events()[0].trace, Some(expected));
    let world = World::start(Setup::default()).await;
    assert_eq!(world.send(&post(parent, b"x")).await.status, 202);
    assert_eq!(world.store.events()[0].trace, None);
}
