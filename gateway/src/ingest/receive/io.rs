//! A connection's bytes, watched: when it was last quiet, whether a head has begun, whether the peer reads what we write.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::Limits;
use crate::clock;

/// Times are microseconds since the connection's start, plus one: zero means "not".
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    in_flight: AtomicUsize,
    /// When the last request ended, or the connection began.
    quiet_since: AtomicU64,
    /// When the head that is being read began.
    head_since: AtomicU64,
    /// Since when the peer takes nothing of what we write.
    write_since: AtomicU64,
    /// When the request that is being dealt with began, and whether it took too long. HTTP/1 only: there is one at a time.
    busy_since: AtomicU64,
    overdue: AtomicBool,
    /// HTTP/2: bytes between requests (pings, window updates) are no head.
    multiplexed: AtomicBool,
    /// A refused body is still being sent.
    linger: AtomicBool,
}

/// A request being dealt with.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a Activity);

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            start: clock::monotonic(),
            in_flight: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(1),
            head_since: AtomicU64::new(1),
            write_since: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            overdue: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
            linger: AtomicBool::new(false),
        }
    }

    /// A head is complete.
    pub(super) fn busy(&self, multiplexed: bool) -> Busy<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.overdue.store(false, Ordering::Relaxed);
        self.mark(&self.busy_since);
        self.head_since.store(0, Ordering::Relaxed);
        if multiplexed {
            self.multiplexed.store(true, Ordering::Relaxed);
        }
        Busy(self)
    }

    /// Ends `work` with nothing once the request is overdue by the connection's watch, which polls it: so a request costs no
    /// timer of its own. HTTP/2 streams are polled by tasks of their own and need one.
    pub(super) async fn within<T>(&self, deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
        if self.multiplexed.load(Ordering::Relaxed) {
            return tokio::time::timeout_at(deadline.into(), work).await.ok();
        }
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.overdue.load(Ordering::Relaxed) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// The watch's look at the request being dealt with: when it will be overdue, unless it is.
    pub(super) fn look_at_request(&self, now: Instant, limits: &Limits) -> Option<Instant> {
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let end = self.since(&self.busy_since)? + limits.total;
        self.overdue.store(end <= now, Ordering::Relaxed);
        Some(end).filter(|end| *end > now)
    }

    /// Before the connection is closed, the peer gets a chance to finish sending and to read our answer.
    pub(super) fn linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// When this connection is to be given up if nothing happens.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let since = |mark: &AtomicU64| self.since(mark);
        let write = since(&self.write_since).map(|since| since + limits.write);
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return write;
        }
        let head = since(&self.head_since).filter(|_| !self.multiplexed.load(Ordering::Relaxed)).map(|since| since + limits.head);
        let idle = since(&self.quiet_since).map(|since| since + limits.idle);
        write.or(head).or(idle)
    }

    fn since(&self, mark: &AtomicU64) -> Option<Instant> {
        match mark.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(self.start + Duration::from_micros(micros - 1)),
        }
    }

    fn mark(&self, mark: &AtomicU64) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        mark.store(micros + 1, Ordering::Relaxed);
    }

    fn read(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0 {
            self.mark(&self.head_since);
        }
    }

    fn wrote<T>(&self, result: &Poll<T>) {
        let blocked = self.write_since.load(Ordering::Relaxed) != 0;
        match (result.is_pending(), blocked) {
            (true, false) => self.mark(&self.write_since),
            (false, true) => self.write_since.store(0, Ordering::Relaxed),
            _ => {}
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.mark(&self.0.quiet_since);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that tells its [`Activity`], and that closes slowly after a refusal.
pub(super) struct Watched<T> {
    inner: T,
    activity: Arc<Activity>,
    closing: Option<Closing>,
    linger_bytes: usize,
    linger: Duration,
}

/// We have said all; the peer may still be sending.
struct Closing {
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, activity: Arc<Activity>, limits: &Limits) -> Self {
        Self { inner, activity, closing: None, linger_bytes: limits.linger_bytes, linger: limits.linger }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.activity.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.activity.wrote(&result);
        result
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.activity.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.activity.wrote(&result);
        result
    }

    /// Closing a socket that holds unread bytes resets it, and the reset can overtake our answer. So after a refusal the rest
    /// of what the peer sends is read and thrown away, within limits.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            if !this.activity.linger.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let closing = this
            .closing
            .get_or_insert_with(|| Closing { left: this.linger_bytes, until: Box::pin(tokio::time::sleep(this.linger)) });
        let mut scratch = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if buf.filled().len() > closing.left => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => closing.left -= buf.filled().len(),
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => return closing.until.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
