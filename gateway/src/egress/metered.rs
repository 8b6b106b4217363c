//! A stream that reads no more than it was allowed to: what bounds floods of interim responses, chunk extensions and trailers, which no
//! parser counts.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

/// How many bytes may still be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowance(Arc<Left>);

#[derive(Debug, Default)]
struct Left {
    bytes: AtomicUsize,
    is_used_up: AtomicBool,
}

impl Allowance {
    /// Starts afresh: one response at a time on this connection.
    pub(super) fn set(&self, bytes: usize) {
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Adds to what is left: several responses at once on this connection.
    pub(super) fn add(&self, bytes: usize) {
        // Wrapping is out of reach: it would take a lifetime of requests without a byte read.
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes away what is over: what earlier responses did not need is not for later ones.
    pub(super) fn cap(&self, bytes: usize) {
        self.0.bytes.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Whether more came than was allowed, which has ended the connection. HTTP/2 does not pass the error on.
    pub(super) fn is_used_up(&self) -> bool {
        self.0.is_used_up.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self.0.bytes.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok();
        if !taken {
            self.0.is_used_up.store(true, Ordering::Relaxed);
        }
        taken
    }
}

/// More came than any response that we keep could need.
#[derive(Debug, thiserror::Error)]
#[error("the response is too large")]
pub(super) struct AllowanceUsedUp;

/// The stream.
#[derive(Debug)]
pub(super) struct Metered<T> {
    inner: T,
    allowance: Allowance,
    /// Its place among the open connections: free when the socket is closed, and not earlier.
    _permit: OwnedSemaphorePermit,
}

impl<T> Metered<T> {
    pub(super) fn new(inner: T, allowance: Allowance, permit: OwnedSemaphorePermit) -> Self {
        Self { inner, allowance, _permit: permit }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if self.allowance.take(buf.filled().len() - before) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(io::Error::other(AllowanceUsedUp)))
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
