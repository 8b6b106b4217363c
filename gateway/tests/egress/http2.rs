//! What a destination can do wrong over HTTP/2.

use tokio::join;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use std::sync::Arc;
use std::time::Duration;

use tidegate::clock::Clock;
use tidegate::egress::{Egress, EgressConfig, Sent, Target};

use crate::authority::{Authority, certificate_for};
use crate::frames::*;
use crate::peer::*;
use crate::tls::{accept, secure, trusting};

/// A server that speaks HTTP/2 alone, and who meets it.
struct Pair {
    server: Server,
    acceptor: TlsAcceptor,
    egress: Egress,
    target: Arc<Target>,
}

impl Pair {
    async fn start() -> Self {
        let (server, authority) = (Server::start().await, Authority::new());
        let acceptor = authority.acceptor(certificate_for("own.example"), &["h2"]);
        let (egress, target) = (trusting(&authority), secure(server.address));
        Self { server, acceptor, egress, target }
    }

    fn send(&self, deadline: Duration) -> impl Future<Output = Sent> + use<> {
        send(&self.egress, &self.target, deadline)
    }

    async fn accept(&self, settings: &[(u16, u32)]) -> Frames<TlsStream<TcpStream>> {
        let peer = accept(&self.server, &self.acceptor).await.unwrap();
        within(Frames::greet(peer.stream, settings)).await.unwrap()
    }

    /// Takes a connection and a request on it.
    async fn take(&self) -> (Frames<TlsStream<TcpStream>>, u32) {
        let mut frames = self.accept(&[]).await;
        let stream = within(frames.request()).await.unwrap();
        (frames, stream)
    }
}

#[tokio::test]
async fn a_request_that_the_server_did_nothing_with_goes_out_on_a_new_connection_at_once() {
    let refusals: [fn(u32) -> Vec<u8>; 2] = [|stream| reset(stream, REFUSED_STREAM), |_| goaway(0, NO_ERROR)];
    for refusal in refusals {
        let pair = Pair::start().await;
        let (sent, _old) = join!(pair.send(LONG), async {
            let (mut old, stream) = pair.take().await;
            old.write(&refusal(stream)).await.unwrap();
            let (mut new, stream) = pair.take().await;
            new.ok(stream).await.unwrap();
            // Whoever comes next finds the new one.
            let (next, ()) = join!(pair.send(LONG), async {
                let stream = within(new.request()).await.unwrap();
                new.ok(stream).await.unwrap();
            });
            assert_eq!((next.status, next.resent), (Some(200), false));
            old
        });
        assert_eq!((sent.status, code(&sent), sent.resent), (Some(200), "none", true));
        assert!(pair.server.is_lonely().await);
    }
}

#[tokio::test]
async fn one_that_is_refused_again_is_recorded() {
    let pair = Pair::start().await;
    let (sent, _held) = join!(pair.send(LONG), async {
        let mut held = Vec::new();
        for _ in 0..2 {
            let (mut frames, stream) = pair.take().await;
            frames.write(&reset(stream, REFUSED_STREAM)).await.unwrap();
            held.push(frames);
        }
        held
    });
    assert_eq!((sent.status, code(&sent), sent.resent), (None, "reset", true));
    assert!(pair.server.is_lonely().await);
}

#[tokio::test]
async fn requests_that_are_refused_together_share_the_new_connection() {
    const REQUESTS: usize = 20;
    let pair = Pair::start().await;
    let all = async {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..REQUESTS {
            all.spawn(pair.send(LONG));
        }
        all.join_all().await
    };
    let (all, _held) = join!(all, async {
        let mut old = pair.accept(&[]).await;
        for _ in 0..REQUESTS {
            within(old.request()).await.unwrap();
        }
        old.write(&goaway(0, NO_ERROR)).await.unwrap();
        let mut new = pair.accept(&[]).await;
        for _ in 0..REQUESTS {
            let stream = within(new.request()).await.unwrap();
            new.ok(stream).await.unwrap();
        }
        (old, new)
    });
    assert!(all.iter().all(|sent| sent.status == Some(200) && sent.resent), "{all:?}");
    assert!(pair.server.is_lonely().await);
}

#[tokio::test]
async fn a_request_that_goaway_includes_is_answered_and_the_next_one_goes_elsewhere() {
    let pair = Pair::start().await;
    let (sent, _old) = join!(pair.send(LONG), async {
        let (mut old, stream) = pair.take().await;
        old.write(&goaway(stream, NO_ERROR)).await.unwrap();
        old.ok(stream).await.unwrap();
        old
    });
    assert_eq!((sent.status, sent.resent), (Some(200), false));
    let (sent, ()) = join!(pair.send(LONG), async {
        let (mut new, stream) = pair.take().await;
        new.ok(stream).await.unwrap();
    });
    assert_eq!(sent.status, Some(200));
}

/// It may have been acted upon, or whoever refused it wants less of it: that is for the retry policy.
#[tokio::test]
async fn what_may_have_been_processed_or_is_too_much_is_never_sent_again() {
    let endings: [fn(u32) -> Vec<u8>; 5] = [
        |stream| goaway(stream, NO_ERROR),
        |stream| goaway(stream, INTERNAL_ERROR),
        |_| goaway(0, ENHANCE_YOUR_CALM),
        |stream| reset(stream, ENHANCE_YOUR_CALM),
        |stream| reset(stream, INTERNAL_ERROR),
    ];
    for (number, ending) in endings.iter().enumerate() {
        let pair = Pair::start().await;
        let (sent, ()) = join!(pair.send(LONG), async {
            let (mut frames, stream) = pair.take().await;
            frames.write(&ending(stream)).await.unwrap();
        });
        assert_eq!((sent.status, code(&sent), sent.resent), (None, "reset", false), "{number}");
        assert!(sent.failure.is_some_and(|failure| failure.retryable));
        assert!(pair.server.is_lonely().await);
    }
}

#[tokio::test]
async fn frames_that_make_no_sense() {
    let nonsense: [(&str, Vec<u8>); 8] = [
        ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("a body without a head", frame(DATA, 0, 1, b"x")),
        ("a stream that nobody opened", frame(HEADERS, END_HEADERS, 99, STATUS_200)),
        ("a header that is not compressed as one", frame(HEADERS, END_HEADERS, 1, &[0xff; 20])),
        ("a head without a status", frame(HEADERS, END_HEADERS, 1, &[])),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, STATUS_200)),
        ("a window wider than there are numbers", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ("settings of half a setting", frame(SETTINGS, 0, 0, &[0, 4, 0])),
    ];
    for (what, bytes) in nonsense {
        let pair = Pair::start().await;
        let (sent, _frames) = join!(pair.send(LONG), async {
            let (mut frames, _) = pair.take().await;
            frames.write(&bytes).await.unwrap();
            frames
        });
        assert_eq!((sent.status, code(&sent), sent.resent), (None, "bad_response", false), "{what}");
    }
}

#[tokio::test]
async fn floods_of_frames_end_the_connection() {
    let header = [&[0x40, 1, b'x', 127, 0x80, 0x07][..], &[b'y'; 1023]].concat();
    let floods: [(&str, Vec<u8>, Vec<u8>, &str); 6] = [
        ("settings", vec![], frame(SETTINGS, 0, 0, &[]), "response_head_too_large"),
        ("pings", vec![], frame(PING, 0, 0, b"12345678"), "response_head_too_large"),
        ("windows", vec![], frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()), "response_head_too_large"),
        ("interim responses", vec![], frame(HEADERS, END_HEADERS, 1, STATUS_103), "response_head_too_large"),
        ("continuations", frame(HEADERS, 0, 1, STATUS_200), frame(CONTINUATION, 0, 1, &[]), "bad_response"),
        ("one header after the other", frame(HEADERS, 0, 1, STATUS_200), frame(CONTINUATION, 0, 1, &header), "bad_response"),
    ];
    for (what, beginning, piece, wanted) in floods {
        let pair = Pair::start().await;
        let (sent, taken) = join!(pair.send(LONG), async {
            let (mut frames, _) = pair.take().await;
            frames.write(&beginning).await.unwrap();
            within(frames.flood(&piece.repeat(500))).await
        });
        assert_eq!((sent.status, code(&sent)), (None, wanted), "{what}");
        assert!(taken < 32 << 20, "{what}: {taken}");
    }
}

#[tokio::test]
async fn a_body_that_hangs_or_is_reset_after_a_complete_head_is_delivered() {
    let pair = Pair::start().await;
    let (sent, frames) = join!(pair.send(SHORT), async {
        let (mut frames, stream) = pair.take().await;
        frames.write(&frame(HEADERS, END_HEADERS, stream, STATUS_200)).await.unwrap();
        frames.write(&frame(DATA, 0, stream, b"some")).await.unwrap();
        frames
    });
    assert_eq!((sent.status, code(&sent), &sent.response[..], sent.response_cut), (Some(200), "none", &b"some"[..], true));
    drop(frames);
    let (sent, _frames) = join!(pair.send(LONG), async {
        let (mut frames, stream) = pair.take().await;
        frames.write(&frame(HEADERS, END_HEADERS, stream, STATUS_200)).await.unwrap();
        frames.write(&reset(stream, INTERNAL_ERROR)).await.unwrap();
        frames
    });
    assert_eq!((sent.status, code(&sent), sent.response_cut), (Some(200), "none", true));
}

/// The connection's task wanted to say goodbye first, to a server that does not read: it kept its place among the open connections for ever.
#[tokio::test]
async fn a_server_that_stops_reading_does_not_keep_its_place() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let (server, authority) = (Server::start().await, Authority::new());
    let acceptor = authority.acceptor(certificate_for("own.example"), &["h2"]);
    let egress = egress(EgressConfig {
        extra_ca_pem: vec![authority.pem()],
        hosts: [("own.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])].into(),
        max_connections: 1,
        ..config()
    });
    let mut large = request(&secure(server.address), SHORT);
    large.body = vec![b'x'; 64 << 20].into();
    let clock = Clock::system();
    let (sent, _held) = join!(egress.send(large, &clock), async {
        let peer = accept(&server, &acceptor).await.unwrap();
        let mut frames = within(Frames::greet(peer.stream, &[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)])).await.unwrap();
        frames.write(&frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes())).await.unwrap();
        frames
    });
    assert_eq!(code(&sent), "response_timeout");
    let other = Server::start().await;
    let (sent, _) = join!(send(&egress, &other.target(), LONG), async { other.accept().await.answer(OK).await });
    assert_eq!(sent.status, Some(200));
}
