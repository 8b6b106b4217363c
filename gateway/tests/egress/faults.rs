//! What a destination can do wrong, by name and inside the deadline.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tidegate::egress::EgressConfig;
use tidegate_test_support::ports::Closed;
use tokio::join;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::peer::*;

#[tokio::test]
async fn a_refused_connection() {
    let nobody = Closed::new();
    let sent = send(&egress(config()), &target(&format!("http://{}", nobody.address())), LONG).await;
    assert_eq!((sent.status, code(&sent)), (None, "connect_refused"));
    assert!(sent.failure.is_some_and(|failure| failure.retryable));
}

/// A listener whose queue is full: connecting to it takes for ever.
struct Full {
    address: SocketAddr,
    _held: (TcpListener, Vec<TcpStream>),
}

impl Full {
    async fn start(ip: &str, port: u16) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        socket.bind((ip, port).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
            held.push(stream.unwrap());
        }
        Self { address, _held: (listener, held) }
    }
}

#[tokio::test]
async fn a_connection_that_never_comes() {
    let full = Full::start("127.0.0.1", 0).await;
    let egress = egress(EgressConfig { connect_timeout: SHORT, ..config() });
    let sent = send(&egress, &target(&format!("http://{}", full.address)), LONG).await;
    assert_eq!((sent.status, code(&sent)), (None, "connect_timeout"));
    assert!(sent.took >= SHORT && sent.took < LONG);
    // The deadline is over the connecting too.
    let sent = send(&crate::peer::egress(config()), &target(&format!("http://{}", full.address)), SHORT).await;
    assert_eq!((sent.status, code(&sent)), (None, "connect_timeout"));
}

#[tokio::test]
async fn an_address_that_never_answers_is_passed_over_for_the_next() {
    let server = Server::at("127.0.0.2".parse().unwrap()).await;
    let _full = Full::start("127.0.0.1", server.address.port()).await;
    let hosts = [("two.example".to_owned(), vec!["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()])].into();
    let egress = egress(EgressConfig { hosts, ..config() });
    let target = target(&format!("http://two.example:{}", server.address.port()));
    let (sent, request) = join!(send(&egress, &target, LONG), async { server.accept().await.answer(OK).await });
    assert_eq!(sent.status, Some(200));
    assert!(request.contains(&format!("host: two.example:{}\r\n", server.address.port())));
}

/// RFC 8305, section 5: IPv6 goes first, and costs no more than its head start where nothing answers there.
#[tokio::test]
async fn an_ipv6_address_that_never_answers_costs_its_head_start() {
    const HEAD_START: Duration = Duration::from_millis(250);
    let server = Server::start().await;
    let _full = Full::start("::1", server.address.port()).await;
    for addresses in [["127.0.0.1", "::1"], ["::1", "127.0.0.1"]] {
        let addresses = addresses.map(|address| address.parse().unwrap()).to_vec();
        let egress = egress(EgressConfig { hosts: [("both.example".to_owned(), addresses)].into(), ..config() });
        let target = target(&format!("http://both.example:{}", server.address.port()));
        let (sent, _) = join!(send(&egress, &target, LONG), async { server.accept().await.answer(OK).await });
        assert_eq!(sent.status, Some(200));
        // A busy machine adds to it, but never as much as connecting may take.
        assert!(sent.took >= HEAD_START && sent.took < EgressConfig::default().connect_timeout / 2, "{:?}", sent.took);
    }
}

#[tokio::test]
async fn a_destination_that_is_reached_by_ipv6_alone() {
    let server = Server::at("::1".parse().unwrap()).await;
    let egress = egress(EgressConfig {
        hosts: [("six.example".to_owned(), vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()])].into(),
        ..config()
    });
    for url in [server.url(), format!("http://six.example:{}/hook", server.address.port())] {
        let (sent, _) = join!(send(&egress, &target(&url), LONG), async { server.accept().await.answer(OK).await });
        assert_eq!(sent.status, Some(200), "{url}");
    }
}

#[tokio::test]
async fn a_connection_closed_after_the_request() {
    let server = Server::start().await;
    let egress = egress(config());
    let (sent, ()) = join!(send(&egress, &server.target(), LONG), async {
        server.accept().await.read_request().await;
    });
    assert_eq!((sent.status, code(&sent), sent.resent), (None, "reset", false));
    assert!(server.is_lonely().await);
}

#[tokio::test]
async fn a_reset_inside_the_head() {
    let server = Server::start().await;
    let egress = egress(config());
    let (sent, ()) = join!(send(&egress, &server.target(), LONG), async {
        let mut peer = server.accept().await;
        peer.answer("HTTP/1.1 200 OK\r\ncontent-le").await;
        peer.stream.set_zero_linger().unwrap();
    });
    assert_eq!((sent.status, code(&sent), sent.resent), (None, "reset", false));
}

#[tokio::test]
async fn no_head_and_half_a_head() {
    for said in ["", "HTTP/1.1 200 OK\r\nx-half: "] {
        let server = Server::start().await;
        let egress = egress(config());
        let (sent, ()) = join!(send(&egress, &server.target(), SHORT), async {
            let mut peer = server.accept().await;
            peer.answer(said).await;
            peer.closed().await;
        });
        assert_eq!((sent.status, code(&sent)), (None, "response_timeout"));
        assert!(sent.took >= SHORT && sent.took < LONG);
    }
}

/// A slow body held a worker of a peer's, because its timeout covered the head alone.
#[tokio::test]
async fn a_body_that_does_not_end_is_cut_at_the_deadline_and_counts_as_delivered() {
    let server = Server::start().await;
    let egress = egress(config());
    let (sent, ()) = join!(send(&egress, &server.target(), SHORT), async {
        let mut peer = server.accept().await;
        peer.answer("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await;
        peer.closed().await;
    });
    assert_eq!((sent.status, code(&sent), &sent.response[..], sent.response_cut), (Some(200), "none", &b"some"[..], true));
    assert!(sent.took >= SHORT && sent.took < LONG);
}

#[tokio::test]
async fn a_dripping_body_is_cut_at_the_deadline() {
    let server = Server::start().await;
    let egress = egress(config());
    let (sent, ()) = join!(send(&egress, &server.target(), SHORT), async {
        let mut peer = server.accept().await;
        peer.answer("HTTP/1.1 500 No\r\ncontent-length: 1000000\r\n\r\n").await;
        let mut drip = tokio::time::interval(Duration::from_millis(10));
        while peer.stream.try_write(b"x").is_ok() {
            drip.tick().await;
        }
    });
    assert_eq!((sent.status, code(&sent), sent.response_cut), (Some(500), "status", true));
    assert!(!sent.response.is_empty() && sent.response.len() < 1000);
}

#[tokio::test]
async fn a_body_cut_short_by_the_peer_counts_as_delivered() {
    let server = Server::start().await;
    let egress = egress(config());
    let (sent, _) = join!(send(&egress, &server.target(), LONG), async {
        server.accept().await.answer("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await
    });
    assert_eq!((sent.status, code(&sent), &sent.response[..], sent.response_cut), (Some(200), "none", &b"some"[..], true));
}

/// A giant response was buffered whole by a peer.
#[tokio::test]
async fn a_gigabyte_is_cut_at_the_cap_and_the_connection_closed() {
    for head in ["content-length: 1073741824", "x: no length"] {
        let server = Server::start().await;
        let egress = egress(config());
        let (sent, taken) = join!(send(&egress, &server.target(), LONG), async {
            let mut peer = server.accept().await;
            peer.answer(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n")).await;
            peer.write_until_closed(&[b'x'; 65536]).await
        });
        assert_eq!((sent.status, sent.response.len(), sent.response_cut), (Some(200), 16 * 1024, true));
        // What the kernel buffers on the way is not ours to bound.
        assert!(taken < 32 << 20, "{taken}");
    }
}

#[tokio::test]
async fn a_body_of_exactly_the_cap_is_whole() {
    let server = Server::start().await;
    let egress = egress(config());
    let body = "x".repeat(16 * 1024);
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (sent, _) = join!(send(&egress, &server.target(), LONG), async { server.accept().await.answer(&response).await });
    assert_eq!((sent.response.len(), sent.response_cut), (16 * 1024, false));
}

#[tokio::test]
async fn floods_that_no_parser_counts_end_at_the_allowance() {
    let floods: [(&str, &str); 3] = [
        ("", "HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n"),
        // More headers than are taken, and ever more of them.
        ("HTTP/1.1 200 OK\r\n", "x: y\r\n"),
        ("HTTP/1.1 200 OK\r\nx: ", "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"),
    ];
    for (beginning, piece) in floods {
        let server = Server::start().await;
        let egress = egress(config());
        let (sent, taken) = join!(send(&egress, &server.target(), LONG), async {
            let mut peer = server.accept().await;
            peer.answer(beginning).await;
            peer.write_until_closed(piece.repeat(1000).as_bytes()).await
        });
        assert_eq!((sent.status, code(&sent)), (None, "response_head_too_large"), "{piece}");
        assert!(taken < 32 << 20, "{taken}");
    }
}

#[tokio::test]
async fn all_bodies_that_are_held_share_one_budget() {
    let server = Server::start().await;
    let egress = egress(EgressConfig { response_bytes: 3, ..config() });
    let target = server.target();
    let once = async || {
        let (sent, ()) = join!(send(&egress, &target, LONG), async {
            server.accept().await.answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
        });
        sent
    };
    let first = once().await;
    assert_eq!((&first.response[..], first.response_cut), (&b"ok"[..], false));
    let second = once().await;
    assert_eq!((second.status, &second.response[..], second.response_cut), (Some(200), &b"o"[..], true));
    let held = first.response.clone();
    drop((first, second));
    assert_eq!(once().await.response.len(), 1, "a copy of the first is still held");
    drop(held);
    assert_eq!(once().await.response.len(), 2);
}

#[tokio::test]
async fn a_flood_of_chunk_extensions_and_trailers_is_cut() {
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
    let trailer = "x-trailer: y\r\n".repeat(100);
    for (beginning, piece) in [("", chunk.as_str()), ("0\r\n", trailer.as_str())] {
        let server = Server::start().await;
        let egress = egress(config());
        let (sent, taken) = join!(send(&egress, &server.target(), LONG), async {
            let mut peer = server.accept().await;
            peer.answer(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{beginning}")).await;
            peer.write_until_closed(piece.as_bytes()).await
        });
        assert_eq!((sent.status, code(&sent), sent.response_cut), (Some(200), "none", true));
        assert!(taken < 32 << 20, "{taken}");
    }
}

#[tokio::test]
async fn nonsense_instead_of_http() {
    let cases = [
        ("SSH-2.0-OpenSSH_9.9\r\n", "bad_response"),
        ("HTTP/1.1 9x9 What\r\n\r\n", "bad_response"),
        ("HTTP/1.1 200 OK\r\nno colon here\r\n\r\n", "bad_response"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!", "bad_response"),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "bad_response"),
        ("\x16\x03\x01\x02\x00", "bad_response"),
    ];
    for (response, wanted) in cases {
        let server = Server::start().await;
        let egress = egress(config());
        let (sent, ()) = join!(send(&egress, &server.target(), LONG), async {
            let mut peer = server.accept().await;
            peer.answer(response).await;
            peer.closed().await;
        });
        assert_eq!((sent.status, code(&sent)), (None, wanted), "{response:?}");
    }
}

#[tokio::test]
async fn chunked_nonsense_after_a_complete_head_is_delivered_and_the_connection_closed() {
    for body in ["zz\r\nhello\r\n", "5\r\nhelloXX", "fffffffffffffffff\r\n", "-1\r\n"] {
        let server = Server::start().await;
        let egress = egress(config());
        let (sent, ()) = join!(send(&egress, &server.target(), LONG), async {
            let mut peer = server.accept().await;
            peer.answer(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}")).await;
            peer.closed().await;
        });
        assert_eq!((sent.status, code(&sent), sent.response_cut), (Some(200), "none", true), "{body:?}");
    }
}

#[tokio::test]
async fn a_second_response_that_nobody_asked_for_poisons_nothing() {
    let server = Server::start().await;
    let (egress, target) = (egress(config()), server.target());
    let forged = format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged");
    let (sent, mut first) = join!(send(&egress, &target, LONG), async {
        let mut peer = server.accept().await;
        peer.answer(&forged).await;
        peer
    });
    assert_eq!(&sent.response[..], b"ok");
    let (sent, ()) = join!(send(&egress, &target, LONG), async {
        first.closed().await;
        server.accept().await.answer("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nreal").await;
    });
    assert_eq!(&sent.response[..], b"real");
}
