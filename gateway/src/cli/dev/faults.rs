//! What a destination can do wrong over HTTP/1.1, each under a path of its own: `/fault/hang`. `GET /fault` lists them.
//!
//! A fault begins with the first request of a connection, whose head alone is read, and lasts until its client closes the connection.

use std::fmt::Write;
use std::io::Cursor;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, join, sink};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// What the paths begin with.
pub const PREFIX: &str = "/fault/";

/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(30);
/// Between two bytes of what drips.
const DRIP: Duration = Duration::from_secs(1);
/// Of an answer that is merely late.
const LATE: Duration = Duration::from_secs(3);
const GIB: usize = 1 << 30;
const PIECE: usize = 64 << 10;

/// One thing that a destination does wrong.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The path's last part.
    pub name: &'static str,
    /// What it does, for people.
    pub what: &'static str,
    /// The code of the failure that the gateway records; `None` where the answer counts as a delivery.
    pub code: Option<&'static str>,
    deed: Deed,
}

/// What is done with a connection once a request's head has been read.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Says something, and then...
    Say(&'static str, End),
    /// Says something once, and something else for ever.
    Repeat(&'static str, &'static str),
    /// Says something once, and something else one byte a second.
    Drip(&'static str, &'static str),
    /// A head with a length, and as many bytes.
    Gigabyte,
    /// The same in chunks.
    Chunks,
    /// More headers than anybody needs.
    Headers(usize),
    /// Nothing for a while, then an answer.
    Late,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// Says no more and keeps the connection open.
    Hang,
    Close,
    /// Closes so that the client's side is reset.
    Reset,
}

const fn fault(name: &'static str, what: &'static str, code: Option<&'static str>, deed: Deed) -> Fault {
    Fault { name, what, code, deed }
}

const RESET: Option<&str> = Some("reset");
const TIMEOUT: Option<&str> = Some("response_timeout");
const TOO_LARGE: Option<&str> = Some("response_head_too_large");
const NOT_HTTP: Option<&str> = Some("bad_response");
const STATUS: Option<&str> = Some("status");

/// All of them.
pub const FAULTS: [Fault; 23] = [
    fault("close", "closes the connection without an answer", RESET, Deed::Say("", End::Close)),
    fault("reset", "resets it without an answer", RESET, Deed::Say("", End::Reset)),
    fault("reset-head", "resets it inside the answer's head", RESET, Deed::Say("HTTP/1.1 200 OK\r\nx-half: ", End::Reset)),
    fault("hang", "never answers", TIMEOUT, Deed::Say("", End::Hang)),
    fault("hang-head", "stops inside the answer's head", TIMEOUT, Deed::Say("HTTP/1.1 200 OK\r\nx-half: ", End::Hang)),
    fault("drip-head", "sends the head a byte a second", TIMEOUT, Deed::Drip("", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")),
    fault("late", "answers after 3 seconds", None, Deed::Late),
    fault("hang-body", "stops inside the body", None, Deed::Say("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", End::Hang)),
    fault("reset-body", "resets inside the body", None, Deed::Say("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", End::Reset)),
    fault("drip", "sends the body a byte a second", None, Deed::Drip("HTTP/1.1 200 OK\r\n\r\n", "a byte a second")),
    fault("gigabyte", "sends a gigabyte", None, Deed::Gigabyte),
    fault("gigabyte-chunked", "sends a gigabyte in chunks", None, Deed::Chunks),
    fault(
        "bad-chunks",
        "sends chunks that are none",
        None,
        Deed::Say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", End::Hang),
    ),
    fault("not-http", "answers in another protocol", NOT_HTTP, Deed::Say("SSH-2.0-OpenSSH_9.9\r\n", End::Hang)),
    fault(
        "two-lengths",
        "says two lengths",
        NOT_HTTP,
        Deed::Say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", End::Hang),
    ),
    fault("many-headers", "sends 1,000 headers", TOO_LARGE, Deed::Headers(1_000)),
    fault("endless-head", "sends a head that never ends", TOO_LARGE, Deed::Repeat("HTTP/1.1 200 OK\r\n", "x: y\r\n")),
    fault("interim", "sends interim answers for ever", TOO_LARGE, Deed::Repeat("", "HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n")),
    fault(
        "early",
        "refuses before it has read the body",
        STATUS,
        Deed::Say("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", End::Hang),
    ),
    fault(
        "busy",
        "answers 503 and when to come again",
        STATUS,
        Deed::Say(
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            End::Close,
        ),
    ),
    fault(
        "gone",
        "answers 410, which disables the destination",
        Some("gone"),
        Deed::Say("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", End::Close),
    ),
    fault(
        "redirect",
        "answers with a redirect to the inside",
        Some("redirect_refused"),
        Deed::Say(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            End::Close,
        ),
    ),
    fault(
        "stale",
        "answers, and closes a connection that looks kept",
        None,
        Deed::Say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", End::Close),
    ),
];

/// A line for each of them.
pub fn list() -> String {
    FAULTS.iter().fold(String::new(), |mut text, Fault { name, what, code, .. }| {
        let _ = writeln!(text, "  {PREFIX}{name:<18} {what}: {}", code.unwrap_or("delivered"));
        text
    })
}

/// A connection whose first request asks for no fault, with what has been read of it.
pub struct Harmless {
    /// All of it, from its first byte on.
    pub stream: Box<dyn Stream>,
}

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Does what the connection's first request asks for, until its client closes it. Gives a connection back that asks for none, or for one
/// that there isn't.
pub async fn meet(mut stream: TcpStream) -> Option<Harmless> {
    let mut read = Vec::new();
    let head = timeout(HEAD, read_until(&mut stream, &mut read, b"\r\n\r\n")).await;
    if !matches!(head, Ok(Ok(()))) {
        return None;
    }
    if let Some(fault) = asked_for(&read) {
        // A client that goes away has seen enough.
        let _ = fault.deed.doing(stream).await;
        return None;
    }
    let (reading, writing) = stream.into_split();
    Some(Harmless { stream: Box::new(join(Cursor::new(read).chain(reading), writing)) })
}

async fn read_until(stream: &mut TcpStream, read: &mut Vec<u8>, end: &[u8]) -> std::io::Result<()> {
    while !read.windows(end.len()).any(|some| some == end) {
        if read.len() > MAX_HEAD || stream.read_buf(read).await? == 0 {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}

fn asked_for(head: &[u8]) -> Option<&'static Fault> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let path = std::str::from_utf8(line).ok()?.split(' ').nth(1)?;
    let name = path.split('?').next()?.strip_prefix(PREFIX)?;
    FAULTS.iter().find(|fault| fault.name == name)
}

impl Deed {
    async fn doing(self, mut stream: TcpStream) -> std::io::Result<()> {
        match self {
            Self::Say(text, end) => {
                stream.write_all(text.as_bytes()).await?;
                return end.ending(stream).await;
            }
            Self::Repeat(first, then) => {
                stream.write_all(first.as_bytes()).await?;
                let piece = then.repeat(PIECE / then.len());
                loop {
                    stream.write_all(piece.as_bytes()).await?;
                }
            }
            Self::Drip(first, then) => {
                stream.write_all(first.as_bytes()).await?;
                for byte in then.as_bytes() {
                    sleep(DRIP).await;
                    stream.write_all(&[*byte]).await?;
                }
            }
            Self::Gigabyte => {
                stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {GIB}\r\n\r\n").as_bytes()).await?;
                for _ in 0..GIB / PIECE {
                    stream.write_all(&[b'x'; PIECE]).await?;
                }
            }
            Self::Chunks => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                let chunk = format!("{PIECE:x}\r\n{}\r\n", "x".repeat(PIECE));
                for _ in 0..GIB / PIECE {
                    stream.write_all(chunk.as_bytes()).await?;
                }
                stream.write_all(b"0\r\n\r\n").await?;
            }
            Self::Headers(count) => {
                let headers = "x: y\r\n".repeat(count);
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n").as_bytes()).await?;
            }
            Self::Late => {
                sleep(LATE).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
            }
        }
        End::Hang.ending(stream).await
    }
}

impl End {
    async fn ending(self, mut stream: TcpStream) -> std::io::Result<()> {
        match self {
            Self::Hang => copy(&mut stream, &mut sink()).await.map(drop),
            Self::Close => {
                // What came and was not read would reset the connection, and the answer with it.
                stream.shutdown().await?;
                copy(&mut stream, &mut sink()).await.map(drop)
            }
            Self::Reset => stream.set_zero_linger(),
        }
    }
}
