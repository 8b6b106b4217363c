//! A connection to a broker: bytes in, bytes out, never more than was asked for.

use std::io;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::OwnedSemaphorePermit;

use super::super::fault::Fault;
use super::super::metered::{Allowance, Metered};

/// What a broker may send for one message, beside what it sends back of the message itself.
const ALLOWANCE: usize = 256 * 1024;
/// A broker that returns a message frames it anew.
const FRAMING: usize = 2;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What the other side did while nobody asked it anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    Something,
    End,
}

pub(super) struct Link {
    stream: BufReader<Metered<Box<dyn Stream>>>,
    allowance: Allowance,
}

impl Link {
    pub(super) fn new(stream: Box<dyn Stream>, permit: OwnedSemaphorePermit) -> Self {
        let allowance = Allowance::default();
        allowance.set(ALLOWANCE);
        Self { stream: BufReader::new(Metered::new(stream, allowance.clone(), permit)), allowance }
    }

    /// Begins anew to count what is read.
    pub(super) fn allow(&mut self, body: usize) {
        self.allowance.set(ALLOWANCE + FRAMING * body);
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.stream.write_all(bytes).await.map_err(broken)
    }

    pub(super) async fn flush(&mut self) -> Result<(), Fault> {
        self.stream.flush().await.map_err(broken)
    }

    /// A line without its end.
    pub(super) async fn line(&mut self, max: usize) -> Result<Vec<u8>, Fault> {
        let mut line = Vec::new();
        let room = u64::try_from(max).unwrap_or(u64::MAX);
        let read = (&mut self.stream).take(room).read_until(b'\n', &mut line).await.map_err(broken)?;
        if line.pop() != Some(b'\n') {
            return Err(if read < max { Fault::Reset } else { Fault::BadReply("a line is too long") });
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }

    /// So many bytes.
    pub(super) async fn exactly(&mut self, length: usize, max: usize) -> Result<Bytes, Fault> {
        if length > max {
            return Err(Fault::BadReply("it is too long"));
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await.map_err(broken)?;
        Ok(bytes.into())
    }

    /// Reads so many bytes and forgets them.
    pub(super) async fn skip(&mut self, length: u64) -> Result<(), Fault> {
        let copied = tokio::io::copy_buf(&mut (&mut self.stream).take(length), &mut tokio::io::sink()).await.map_err(broken)?;
        if copied == length { Ok(()) } else { Err(Fault::Reset) }
    }

    /// Waits until something is there, or the end.
    pub(super) async fn something(&mut self) -> Result<(), Fault> {
        self.stream.fill_buf().await.map(drop).map_err(broken)
    }

    /// What is there without being waited for.
    pub(super) fn heard(&mut self) -> Heard {
        match self.stream.fill_buf().now_or_never() {
            None => Heard::Nothing,
            Some(Ok(read)) if !read.is_empty() => Heard::Something,
            Some(_) => Heard::End,
        }
    }
}

fn broken(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::Other => Fault::BadReply("it is too long"),
        _ => Fault::Reset,
    }
}
