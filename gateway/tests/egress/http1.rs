//! What goes out, and what is made of the answer.

use tokio::join;

use crate::peer::*;

#[tokio::test]
async fn the_request_is_exact_and_the_connection_is_used_again() {
    let server = Server::start().await;
    let (egress, target) = (egress(config()), server.target());
    let mut peer = {
        let (sent, (peer, request)) = join!(send(&egress, &target, LONG), async {
            let mut peer = server.accept().await;
            let request = peer.answer(OK).await;
            (peer, request)
        });
        assert_eq!(
            (sent.status, code(&sent), &sent.response[..], sent.response_cut, sent.resent),
            (Some(200), "none", &b"ok"[..], false, false)
        );
        let mut lines: Vec<&str> = request.split("\r\n").collect();
        assert_eq!(lines.remove(0), "POST /hook HTTP/1.1");
        lines.sort_unstable();
        let (agent, host) = (format!("user-agent: Tidegate/{}", env!("CARGO_PKG_VERSION")), format!("host: {}", server.address));
        assert_eq!(lines, ["", "content-length: 5", "content-type: text/plain", "hello", &host, &agent, "x-many: 1", "x-many: 2"]);
        peer
    };
    for _ in 0..3 {
        let (sent, _) = join!(send(&egress, &target, LONG), peer.answer("HTTP/1.1 204 No Content\r\n\r\n"));
        assert_eq!((sent.status, sent.resent), (Some(204), false));
    }
    assert!(server.is_lonely().await);
}

#[tokio::test]
async fn statuses_are_judged() {
    let cases = [
        ("200 OK", "none", false),
        ("202 Accepted", "none", false),
        ("301 Moved Permanently", "redirect_refused", true),
        ("304 Not Modified", "redirect_refused", true),
        ("401 Unauthorized", "status", true),
        ("410 Gone", "gone", false),
        ("429 Too Many Requests", "status", true),
        ("500 Internal Server Error", "status", true),
        ("599 Whatever", "status", true),
    ];
    let server = Server::start().await;
    let egress = egress(config());
    for (status, wanted, retryable) in cases {
        let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let (sent, _) = join!(send(&egress, &server.target(), LONG), async { server.accept().await.answer(&response).await });
        assert_eq!(code(&sent), wanted);
        assert_eq!(sent.failure.is_some_and(|failure| failure.retryable), retryable, "{status}");
    }
}

/// A peer followed redirects, and with them whoever answered chose where requests went.
#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let (server, inside) = (Server::start().await, Server::start().await);
    let egress = egress(config());
    let response = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", inside.url());
    let (sent, _) = join!(send(&egress, &server.target(), LONG), async { server.accept().await.answer(&response).await });
    assert_eq!((sent.status, code(&sent)), (Some(307), "redirect_refused"));
    assert!(inside.is_lonely().await);
}

#[tokio::test]
async fn retry_after_is_passed_on_as_a_point_in_time() {
    let server = Server::start().await;
    let egress = egress(config());
    let clock = tidegate::clock::Clock::manual(tidegate::clock::Timestamp(1_000_000));
    let response = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n";
    let (sent, _) =
        join!(egress.send(request(&server.target(), LONG), &clock), async { server.accept().await.answer(response).await });
    assert_eq!(sent.retry_after, Some(tidegate::clock::Timestamp(1_120_000)));
}

#[tokio::test]
async fn interim_responses_are_skipped() {
    let server = Server::start().await;
    let egress = egress(config());
    let response = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n{OK}");
    let (sent, _) = join!(send(&egress, &server.target(), LONG), async { server.accept().await.answer(&response).await });
    assert_eq!((sent.status, &sent.response[..]), (Some(200), &b"ok"[..]));
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_counts_and_the_connection_is_not_kept() {
    let server = Server::start().await;
    let egress = egress(config());
    let mut request = request(&server.target(), LONG);
    request.body = vec![b'x'; 64 << 20].into();
    let clock = tidegate::clock::Clock::system();
    let (sent, peer) = join!(egress.send(request, &clock), async {
        let mut peer = server.accept().await;
        peer.write("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await;
        peer
    });
    assert_eq!((sent.status, code(&sent)), (Some(413), "status"));
    // The rest of the body must not be taken for the beginning of another request.
    let (sent, ()) = join!(send(&egress, &server.target(), LONG), async {
        server.accept().await.answer(OK).await;
    });
    assert_eq!(sent.status, Some(200));
    drop(peer);
}
