//! Destinations whose port, name, certificate or HTTP/2 is wrong.

use std::net::SocketAddr;

use tidegate_test_support::ports::Closed;
use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Bad;
use crate::authority::{Authority, certificate_for, self_signed};
use crate::frames::*;

/// Names for what the destinations stand on.
pub(super) const CONFIG: &str = "egress.connect_timeout = \"4s\"\negress.hosts = [{ name = \"own.example\", addresses = [\"127.0.0.1\"] }, \
                                 { name = \"inside.example\", addresses = [\"169.254.169.254\"] }]";

/// The highest number that a stream may have.
const LAST_STREAM: u32 = 0x7fff_ffff;

/// What a connection's bytes are.
#[derive(Clone)]
enum Kind {
    /// The same bytes for every client, in place of TLS.
    Raw(&'static [u8]),
    /// TLS, and nothing more: a client that gets so far has trusted the certificate.
    Tls(TlsAcceptor),
    /// HTTP/2, and these frames after each request.
    Frames(TlsAcceptor, fn(u32) -> Vec<u8>),
    /// HTTP/2, and after the first request these, again and again.
    Flood(TlsAcceptor, Vec<u8>, Vec<u8>),
}

/// All of them, as long as this lives.
pub(super) struct Secure {
    destinations: Vec<(&'static str, String, &'static str)>,
    pem: String,
    _full: (TcpListener, Vec<TcpStream>),
    _closed: Closed,
}

impl Secure {
    pub(super) async fn start() -> Self {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let own = || certificate_for("own.example");
        let mut expired = own();
        expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
        expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let tls = |acceptor| Kind::Tls(acceptor);
        let http2 = || authority.acceptor(own(), &["h2"]);
        let flood = |beginning, piece| Kind::Flood(http2(), beginning, piece);
        let servers: [(&str, &str, Kind); 17] = [
            ("tls-plain-text", "tls_failed", Kind::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            ("tls-garbage", "tls_failed", Kind::Raw(b"\x16\x03\x03\x7f\x7f\x02\x7f\x7f\x7f")),
            ("tls-hang", "tls_timeout", Kind::Raw(b"")),
            ("tls-another-name", "tls_failed", tls(authority.acceptor(certificate_for("other.example"), &[]))),
            ("tls-expired", "tls_failed", tls(authority.acceptor(expired, &[]))),
            ("tls-stranger", "tls_failed", tls(stranger.acceptor(own(), &[]))),
            ("tls-self-signed", "tls_failed", tls(self_signed("own.example"))),
            ("h2-refused", "reset", Kind::Frames(http2(), |stream| reset(stream, REFUSED_STREAM))),
            ("h2-goaway", "reset", Kind::Frames(http2(), |_| goaway(0, NO_ERROR))),
            ("h2-goaway-in-flight", "response_timeout", Kind::Frames(http2(), |_| goaway(LAST_STREAM, NO_ERROR))),
            ("h2-calm", "reset", Kind::Frames(http2(), |_| goaway(0, ENHANCE_YOUR_CALM))),
            ("h2-nonsense", "bad_response", Kind::Frames(http2(), |_| frame(DATA, 0, 1, b"x"))),
            ("h2-settings", "response_head_too_large", flood(vec![], frame(SETTINGS, 0, 0, &[]))),
            ("h2-pings", "response_head_too_large", flood(vec![], frame(PING, 0, 0, b"12345678"))),
            ("h2-interim", "response_head_too_large", flood(vec![], frame(HEADERS, END_HEADERS, 1, STATUS_103))),
            ("h2-continuation", "bad_response", flood(frame(HEADERS, 0, 1, STATUS_200), frame(CONTINUATION, 0, 1, &[]))),
            ("h2-windows", "response_head_too_large", flood(vec![], frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()))),
        ];
        let mut destinations = Vec::new();
        for (name, code, kind) in servers {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            destinations.push((name, format!("https://own.example:{port}/"), code));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // It lasts until the gateway has closed; how it ended is nothing to this side.
                    let kind = kind.clone();
                    tokio::spawn(async move { drop(kind.meet(stream).await) });
                }
            });
        }
        let closed = Closed::new();
        let (full, address) = full().await;
        destinations.extend([
            ("refuses", format!("http://{}/", closed.address()), "connect_refused"),
            ("accepts-nobody", format!("http://{address}/"), "connect_timeout"),
            ("leads-inside", "http://inside.example/".to_owned(), "address_refused"),
            ("leads-nowhere", "http://nowhere.invalid/".to_owned(), "dns_failed"),
        ]);
        Self { destinations, pem: authority.pem(), _full: full, _closed: closed }
    }

    pub(super) fn destinations(&self) -> impl Iterator<Item = Bad> {
        self.destinations.iter().map(|(name, url, code)| Bad {
            name: (*name).to_owned(),
            url: url.clone(),
            code: Some(code),
            ca_pem: url.starts_with("https").then(|| self.pem.clone()),
        })
    }
}

/// A listener whose queue is full: connecting to it takes for ever.
async fn full() -> ((TcpListener, Vec<TcpStream>), SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = tokio::time::timeout(std::time::Duration::from_millis(200), TcpStream::connect(address)).await {
        held.push(stream.unwrap());
    }
    ((listener, held), address)
}

impl Kind {
    async fn meet(self, mut stream: TcpStream) -> std::io::Result<()> {
        match self {
            Self::Raw(bytes) => {
                stream.write_all(bytes).await?;
                copy(&mut stream, &mut sink()).await?;
            }
            Self::Tls(acceptor) => {
                let mut stream = acceptor.accept(stream).await?;
                copy(&mut stream, &mut sink()).await?;
            }
            Self::Frames(acceptor, answer) => {
                let mut frames = greet(&acceptor, stream).await?;
                loop {
                    let stream = frames.request().await?;
                    frames.write(&answer(stream)).await?;
                }
            }
            Self::Flood(acceptor, beginning, piece) => {
                let mut frames = greet(&acceptor, stream).await?;
                frames.request().await?;
                frames.write(&beginning).await?;
                frames.flood(&piece.repeat(500)).await;
            }
        }
        Ok(())
    }
}

async fn greet(acceptor: &TlsAcceptor, stream: TcpStream) -> std::io::Result<Frames<TlsStream<TcpStream>>> {
    Frames::greet(acceptor.accept(stream).await?, &[]).await
}
