//! TLS, and HTTP/2 over it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate::egress::{Egress, EgressConfig, Target, TargetConfig, TlsOptions};
use tokio::join;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authority::{Authority, certificate_for, self_signed};
use crate::peer::*;

pub(crate) fn trusting(authority: &Authority) -> Egress {
    egress(EgressConfig {
        extra_ca_pem: vec![authority.pem()],
        hosts: [("own.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])].into(),
        ..config()
    })
}

pub(crate) fn secure(address: SocketAddr) -> Arc<Target> {
    target(&format!("https://own.example:{}/hook", address.port()))
}

pub(crate) async fn accept(server: &Server, acceptor: &TlsAcceptor) -> std::io::Result<Peer<TlsStream<TcpStream>>> {
    let plain = server.accept().await;
    Ok(Peer { stream: within(acceptor.accept(plain.stream)).await? })
}

#[tokio::test]
async fn a_trusted_certificate_and_a_kept_connection() {
    let (server, authority) = (Server::start().await, Authority::new());
    let acceptor = authority.acceptor(certificate_for("own.example"), &["http/1.1"]);
    let (egress, target) = (trusting(&authority), secure(server.address));
    let (sent, mut peer) = join!(send(&egress, &target, LONG), async {
        let mut peer = accept(&server, &acceptor).await.unwrap();
        peer.answer(OK).await;
        peer
    });
    assert_eq!((sent.status, code(&sent)), (Some(200), "none"));
    let (sent, _) = join!(send(&egress, &target, LONG), peer.answer(OK));
    assert_eq!(sent.status, Some(200));
    assert!(server.is_lonely().await);
}

#[tokio::test]
async fn certificates_that_prove_nothing() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let mut expired = certificate_for("own.example");
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let mut early = certificate_for("own.example");
    early.not_before = rcgen::date_time_ymd(2200, 1, 1);
    early.not_after = rcgen::date_time_ymd(2201, 1, 1);
    let cases = [
        ("another name", authority.acceptor(certificate_for("other.example"), &[])),
        ("expired", authority.acceptor(expired, &[])),
        ("not valid yet", authority.acceptor(early, &[])),
        ("nobody but itself", self_signed("own.example")),
        ("unknown authority", stranger.acceptor(certificate_for("own.example"), &[])),
    ];
    let egress = trusting(&authority);
    for (what, acceptor) in cases {
        let server = Server::start().await;
        let (sent, refused) = join!(send(&egress, &secure(server.address), LONG), accept(&server, &acceptor));
        assert_eq!((sent.status, code(&sent)), (None, "tls_failed"), "{what}");
        assert!(refused.is_err(), "{what}");
    }
}

#[tokio::test]
async fn a_destinations_own_certificates_are_trusted_for_it_alone() {
    let (server, authority, stranger) = (Server::start().await, Authority::new(), Authority::new());
    let acceptor = stranger.acceptor(certificate_for("own.example"), &[]);
    let egress = trusting(&authority);
    let url = format!("https://own.example:{}/", server.address.port());
    let own = TargetConfig { tls: TlsOptions { ca_pem: Some(stranger.pem()), ..TlsOptions::default() }, ..target_config(&url) };
    let own = Arc::new(Target::new(&own, &policy()).unwrap());
    for _ in 0..2 {
        let (sent, _) = join!(send(&egress, &own, LONG), async {
            let mut peer = accept(&server, &acceptor).await.unwrap();
            peer.answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await
        });
        assert_eq!(sent.status, Some(200));
    }
    let (sent, _) = join!(send(&egress, &secure(server.address), LONG), accept(&server, &acceptor));
    assert_eq!(code(&sent), "tls_failed");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_or_says_nothing() {
    let authority = Authority::new();
    let server = Server::start().await;
    // Plain text, a record that is none, and a message that promises more than it may hold.
    for garbage in ["HTTP/1.1 400 Bad Request\r\n\r\n", "\x16\x03\x03\0\x05garbage", "\x16\x03\x03\x7f\x7f\x02\x7f\x7f\x7f"] {
        let (sent, ()) = join!(send(&trusting(&authority), &secure(server.address), LONG), async {
            let mut peer = server.accept().await;
            peer.write(garbage).await;
            within(tokio::io::copy(&mut peer.stream, &mut tokio::io::sink())).await.ok();
        });
        assert_eq!((sent.status, code(&sent)), (None, "tls_failed"), "{garbage:?}");
    }

    let silent = Server::start().await;
    let egress = egress(EgressConfig {
        connect_timeout: SHORT,
        hosts: [("own.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])].into(),
        ..config()
    });
    let (sent, _peer) = join!(send(&egress, &secure(silent.address), LONG), silent.accept());
    assert_eq!((sent.status, code(&sent)), (None, "tls_timeout"));
}

/// An HTTP/2 server that answers `/hook` and lets `/slow` wait for ever.
async fn serve_http2(server: &Server, acceptor: &TlsAcceptor, body: usize) {
    let stream = accept(server, acceptor).await.unwrap().stream;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let answer = move |request: http::Request<hyper::body::Incoming>| async move {
        assert_eq!(request.version(), http::Version::HTTP_2);
        assert_eq!(request.headers().get("host"), None);
        assert!(request.uri().authority().is_some_and(|authority| authority.as_str().starts_with("own.example:")));
        let sent =
            http_body_util::BodyExt::collect(http_body_util::Limited::new(request.into_body(), 100)).await.unwrap().to_bytes();
        assert_eq!(sent, "hello");
        if body == usize::MAX {
            std::future::pending::<()>().await;
        }
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(vec![b'x'; body]))))
    };
    let service = hyper::service::service_fn(answer);
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

#[tokio::test]
async fn http2_shares_one_connection() {
    let (server, authority) = (Server::start().await, Authority::new());
    let acceptor = authority.acceptor(certificate_for("own.example"), &["h2", "http/1.1"]);
    let (egress, target) = (trusting(&authority), secure(server.address));
    let requests = async {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (egress, target) = (egress.clone(), Arc::clone(&target));
            all.spawn(async move { send(&egress, &target, LONG).await });
        }
        let all = all.join_all().await;
        assert!(all.iter().all(|sent| sent.status == Some(200) && sent.response == "xx"), "{all:?}");
        // And on from there.
        assert_eq!(send(&egress, &target, LONG).await.status, Some(200));
    };
    tokio::select! {
        () = requests => {}
        () = serve_http2(&server, &acceptor, 2) => panic!("the connection ended"),
    }
    assert!(server.is_lonely().await);
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_after_its_time() {
    let (server, authority) = (Server::start().await, Authority::new());
    let acceptor = authority.acceptor(certificate_for("own.example"), &["h2"]);
    let egress = egress(EgressConfig {
        extra_ca_pem: vec![authority.pem()],
        hosts: [("own.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])].into(),
        idle_timeout: std::time::Duration::from_millis(50),
        ..config()
    });
    // The server's side ends only when the connection does.
    let (sent, ()) = join!(send(&egress, &secure(server.address), LONG), within(serve_http2(&server, &acceptor, 2)));
    assert_eq!(sent.status, Some(200));
}

#[tokio::test]
async fn a_giant_body_over_http2_is_cut() {
    let (server, authority) = (Server::start().await, Authority::new());
    let acceptor = authority.acceptor(certificate_for("own.example"), &["h2"]);
    let (egress, target) = (trusting(&authority), secure(server.address));
    tokio::select! {
        () = async {
            for _ in 0..3 {
                let sent = send(&egress, &target, LONG).await;
                assert_eq!((sent.status, sent.response.len(), sent.response_cut, code(&sent)), (Some(200), 16 * 1024, true, "none"));
            }
        } => {}
        () = serve_http2(&server, &acceptor, 64 << 20) => panic!("the connection ended"),
    }
    assert!(server.is_lonely().await);
}

#[tokio::test]
async fn an_http2_connection_that_does_not_answer_is_not_used_again() {
    let (server, authority) = (Server::start().await, Authority::new());
    let acceptor = authority.acceptor(certificate_for("own.example"), &["h2"]);
    let (egress, target) = (trusting(&authority), secure(server.address));
    let late = tokio::select! {
        sent = send(&egress, &target, SHORT) => sent,
        () = serve_http2(&server, &acceptor, usize::MAX) => panic!("the connection ended"),
    };
    assert_eq!((late.status, code(&late)), (None, "response_timeout"));
    let sent = tokio::select! {
        sent = send(&egress, &target, LONG) => sent,
        () = serve_http2(&server, &acceptor, 2) => panic!("the connection ended"),
    };
    assert_eq!(sent.status, Some(200));
}

#[tokio::test]
async fn http2_is_not_offered_where_the_destination_does_not_want_it() {
    let (server, authority) = (Server::start().await, Authority::new());
    let acceptor = authority.acceptor(certificate_for("own.example"), &["h2", "http/1.1"]);
    let url = format!("https://own.example:{}/hook", server.address.port());
    let config = TargetConfig { tls: TlsOptions { http2: false, ..TlsOptions::default() }, ..target_config(&url) };
    let target = Arc::new(Target::new(&config, &policy()).unwrap());
    let (sent, _) = join!(send(&trusting(&authority), &target, LONG), async {
        let mut peer = accept(&server, &acceptor).await.unwrap();
        assert_eq!(peer.stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        peer.answer(OK).await
    });
    assert_eq!(sent.status, Some(200));
}
