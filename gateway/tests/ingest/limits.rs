//! Every limit, with what the sender is told.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, ServerName};
use tidegate::ingest::accept;
use tidegate::ingest::receive::{Limits, tls_config};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::stub::Mode;
use crate::world::{DEADLINE, SOURCE, Setup, World, post, source};

/// Short enough to wait for, long enough for what is not slow.
const SOON: Duration = Duration::from_millis(200);

fn limits(change: impl FnOnce(&mut Limits)) -> Setup {
    let mut setup = Setup::default();
    change(&mut setup.limits);
    setup
}

fn small_bodies() -> Setup {
    let mut setup = Setup { source: source(), ..Setup::default() };
    setup.source.max_body = 1000;
    setup
}

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_body_comes() {
    let world = World::start(small_bodies()).await;
    let response = world.send(format!("POST /in/{SOURCE} HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n").as_bytes()).await;
    assert_eq!((response.status, response.code().as_str()), (413, "body_too_large"));
    assert_eq!(response.json()["field"], "body");
    assert_eq!(world.send(&post("", &[0; 1000])).await.status, 202);
    let expected = format!("POST /in/{SOURCE} HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(world.send(expected.as_bytes()).await.status, 413, "no 100 comes first");
    assert_eq!(world.store.events().len(), 1);
}

#[tokio::test]
async fn a_body_without_a_length_is_counted_and_never_cut() {
    let world = World::start(small_bodies()).await;
    let chunked = |chunks: &[usize]| {
        let mut request = format!("POST /in/{SOURCE} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
        for size in chunks {
            request.push_str(&format!("{size:x}\r\n{}\r\n", "y".repeat(*size)));
        }
        (request + "0\r\n\r\n").into_bytes()
    };
    for sizes in [&[1001][..], &[500, 500, 1], &[999, 2]] {
        let response = world.send(&chunked(sizes)).await;
        assert_eq!((response.status, response.code().as_str()), (413, "body_too_large"), "{sizes:?}");
    }
    assert!(world.store.events().is_empty());
    assert_eq!(world.send(&chunked(&[999, 1])).await.status, 202);
    assert_eq!(world.store.events()[0].request.body.len(), 1000);
}

#[tokio::test]
async fn a_sender_that_ignores_the_refusal_still_gets_to_read_it() {
    let world = World::start(small_bodies()).await;
    let mut connection = world.connect().await;
    connection.write(&post("", &vec![0; 3 << 20])).await;
    let response = connection.response().await;
    assert_eq!(response.status, 413);
}

#[tokio::test]
async fn heads_are_limited_by_count_and_bytes() {
    let world = World::start(Setup::default()).await;
    let many: String = (0..97).map(|at| format!("x-{at}: y\r\n")).collect();
    let response = world.send(&post(&many, b"")).await;
    assert_eq!((response.status, response.code().as_str()), (431, "head_too_large"));
    let large = format!("x-large: {}\r\n", "y".repeat(33_000));
    let response = world.send(&post(&large, b"")).await;
    assert_eq!((response.status, response.code().as_str()), (431, "head_too_large"));
    let huge = format!("x-huge: {}\r\n", "y".repeat(200_000));
    let mut connection = world.connect().await;
    let _ = connection.stream.write_all(&post(&huge, b"")).await;
    if let Some(response) = connection.try_response().await {
        assert_eq!(response.status, 431);
    }
    assert!(world.store.events().is_empty());
}

#[tokio::test]
async fn malformed_http_is_400() {
    let world = World::start(Setup::default()).await;
    for request in ["NOT HTTP\r\n\r\n", "POST /in/x HTTP/1.1\r\nbad header\r\n\r\n", "POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"]
    {
        assert_eq!(world.send(request.as_bytes()).await.status, 400, "{request}");
    }
    let broken = format!("POST /in/{SOURCE} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n");
    let response = world.send(broken.as_bytes()).await;
    assert_eq!((response.status, response.code().as_str()), (400, "body_incomplete"));
}

#[tokio::test]
async fn a_head_that_drips_or_never_comes_is_closed() {
    let world = World::start(limits(|limits| limits.head = SOON)).await;
    let mut silent = world.connect().await;
    let mut dripping = world.connect().await;
    dripping.write(b"POST /in/").await;
    let dripped = async {
        while dripping.stream.write_all(b"x").await.is_ok() {
            tokio::task::yield_now().await;
            tokio::time::sleep(SOON / 20).await;
        }
    };
    tokio::time::timeout(DEADLINE, dripped).await.expect("the server gives up");
    silent.closed().await;
    let mut second = world.connect().await;
    second.write(&post("", b"fine")).await;
    assert_eq!(second.response().await.status, 202);
    second.write(b"POST /in/").await;
    second.closed().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let world = World::start(limits(|limits| limits.idle = SOON)).await;
    let mut connection = world.connect().await;
    connection.write(&post("", b"x")).await;
    assert_eq!(connection.response().await.status, 202);
    connection.closed().await;

    let mut setup = limits(|limits| limits.idle = SOON);
    setup.mode = Mode::Hold;
    let world = World::start(setup).await;
    let mut connection = world.connect().await;
    connection.write(&post("", b"x")).await;
    world.store.asked(1).await;
    tokio::time::sleep(SOON * 3).await;
    world.store.set(Mode::Keep);
    assert_eq!(connection.response().await.status, 202);
}

#[tokio::test]
async fn a_body_that_stalls_or_drips_is_408_and_not_kept() {
    let world = World::start(limits(|limits| limits.body = SOON)).await;
    let mut stalled = world.connect().await;
    let whole = post("", &[1; 100]);
    stalled.write(&whole[..whole.len() - 1]).await;
    let response = stalled.response().await;
    assert_eq!((response.status, response.code().as_str()), (408, "body_too_slow"));
    stalled.closed().await;

    let rate = |limits: &mut Limits| (limits.body_grace, limits.body_rate) = (SOON, 100_000);
    let world = World::start(limits(rate)).await;
    let mut dripping = world.connect().await;
    dripping.write(format!("POST /in/{SOURCE} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes()).await;
    let drip = async {
        loop {
            if dripping.stream.write_all(b"1\r\nx\r\n").await.is_err() {
                break;
            }
            tokio::select! {
                response = dripping.try_response() => return response,
                () = tokio::time::sleep(SOON / 20) => {}
            }
        }
        None
    };
    let response = tokio::time::timeout(DEADLINE, drip).await.expect("the server gives up").expect("an answer");
    assert_eq!((response.status, response.code().as_str()), (408, "body_too_slow"));
    assert!(world.store.events().is_empty());
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_503_and_says_what_that_means() {
    let mut setup = limits(|limits| limits.total = SOON);
    setup.mode = Mode::Hold;
    let world = World::start(setup).await;
    let response = world.send(&post("", b"x")).await;
    assert_eq!((response.status, response.code().as_str()), (503, "store_timeout"));
    assert!(response.header("retry-after").is_some());
    assert!(response.json()["detail"].as_str().unwrap().contains("may have been accepted"));
}

#[tokio::test]
async fn a_full_queue_is_503_at_once() {
    let accept = accept::Limits { queue_count: 1, batch_count: 1, ..accept::Limits::default() };
    let world = World::start(Setup { mode: Mode::Hold, accept, ..Setup::default() }).await;
    let mut connections = Vec::new();
    let refused = loop {
        let mut connection = world.connect().await;
        connection.write(&post("", b"x")).await;
        world.store.asked(1).await;
        match tokio::time::timeout(SOON, connection.response()).await {
            Ok(response) => break response,
            Err(_) => connections.push(connection),
        }
        assert!(connections.len() < 5, "the queue has no limit");
    };
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    assert!(refused.header("retry-after").is_some());
    world.store.set(Mode::Keep);
    for mut connection in connections {
        assert_eq!(connection.response().await.status, 202);
    }
}

#[tokio::test]
async fn bodies_share_a_budget() {
    let budgets: [fn(&mut Limits); 3] = [
        |limits| limits.body_bytes = 1500,
        |limits| limits.body_bytes_per_peer = 1500,
        |limits| limits.body_bytes_per_source = 1500,
    ];
    for budget in budgets {
        let world = World::start(limits(budget)).await;
        let mut first = world.connect().await;
        let whole = post("expect: 100-continue\r\n", &[1; 1000]);
        let (head, body) = whole.split_at(whole.len() - 1000);
        first.write(head).await;
        assert_eq!(first.response().await.status, 100, "its bytes are taken before it is read");
        let refused = world.send(&post("", &[2; 1000])).await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
        first.write(body).await;
        assert_eq!(first.response().await.status, 202);
        assert_eq!(world.send(&post("", &[2; 1000])).await.status, 202, "given back");
    }
}

#[tokio::test]
async fn connections_are_limited_for_a_peer_and_in_all() {
    let world = World::start(limits(|limits| limits.connections_per_peer = 2)).await;
    let mut open = vec![world.connect().await, world.connect().await];
    for connection in &mut open {
        connection.write(&post("", b"x")).await;
        assert_eq!(connection.response().await.status, 202);
    }
    world.connect().await.closed().await;
    let mut trusted = limits(|limits| limits.connections_per_peer = 0);
    trusted.limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    assert_eq!(World::start(trusted).await.send(&post("", b"x")).await.status, 202);

    let world = World::start(limits(|limits| limits.connections = 1)).await;
    let mut first = world.connect().await;
    first.write(&post("", b"x")).await;
    assert_eq!(first.response().await.status, 202);
    let mut second = world.connect().await;
    second.write(&post("", b"y")).await;
    assert!(tokio::time::timeout(SOON, second.response()).await.is_err(), "it waits in the kernel's queue");
    drop(first);
    assert_eq!(second.response().await.status, 202);
}

#[tokio::test]
async fn tls_offers_both_protocols_and_bad_files_are_named() {
    let made = rcgen::generate_simple_self_signed(vec!["gateway.test".into()]).expect("a certificate");
    let directory = tempfile::tempdir().expect("a directory");
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let error = tls_config(&certificate, &certificate).expect_err("no key in it").to_string();
    assert!(error.contains("cert.pem") && error.contains("private key"), "{error}");
    let error = tls_config(&directory.path().join("none"), &key).expect_err("no file").to_string();
    assert!(error.contains("none"), "{error}");
    let tls = tls_config(&certificate, &key).expect("usable");
    let world = World::start(Setup { tls: Some(tls), ..Setup::default() }).await;
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let stream = tls_connect(&world, made.cert.der().clone(), alpn).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        let request = http::Request::post(format!("https://gateway.test/in/{SOURCE}"))
            .header("host", "gateway.test")
            .body(Full::new(bytes::Bytes::from_static(b"secret")))
            .unwrap();
        let status = if alpn == b"h2" {
            let (mut client, driver) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            let driver = tokio::spawn(driver);
            let status = client.send_request(request).await.unwrap().status();
            driver.abort();
            status
        } else {
            let (mut client, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            let driver = tokio::spawn(driver);
            let status = client.send_request(request).await.unwrap().status();
            driver.abort();
            status
        };
        assert_eq!(status, 202);
    }
    let mut plain = world.connect().await;
    plain.write(&post("", b"not TLS")).await;
    let _ = plain.try_response().await;
    assert_eq!(world.store.events().len(), 2);
}

async fn tls_connect(
    world: &World,
    certificate: CertificateDer<'static>,
    alpn: &[u8],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(world.address).await.unwrap();
    let name = ServerName::try_from("gateway.test").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
}

#[tokio::test]
async fn a_tls_handshake_that_never_comes_is_closed() {
    let made = rcgen::generate_simple_self_signed(vec!["gateway.test".into()]).expect("a certificate");
    let directory = tempfile::tempdir().expect("a directory");
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut setup = limits(|limits| limits.head = SOON);
    setup.tls = Some(tls_config(&certificate, &key).unwrap());
    let world = World::start(setup).await;
    world.connect().await.closed().await;
}
