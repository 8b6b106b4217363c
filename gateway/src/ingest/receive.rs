//! The ingest listener: HTTP/1.1 and 2, with or without TLS, any method on `/in/{source}` and below.
//!
//! **Byte-exact.** Path below the source, query, header values and body go into the event as they came; header names are lower
//! case. Headers keep the order in which each name first came, and repeats of a name keep their order, but stand together: that
//! is what hyper hands out, and HTTP gives no other order a meaning (RFC 9110, 5.3). HTTP/2's `:authority` becomes `host` if the
//! sender gave none. Trailers are dropped.
//!
//! **Limits on everything**: see [`Limits`]. A connection's permit is taken before it is accepted, a body's bytes before it is
//! read. What is over a limit is refused with its reason; nothing is ever cut.
//!
//! **Answers**: 202 with the event's id once it is durable, else problem details (RFC 9457). What breaks HTTP itself (a malformed
//! head, more than 100 header lines, a head twice as large as allowed) is answered by hyper with a bare 400, 414 or 431.

mod answer;
mod body;
mod cloud_event;
mod connection;
mod dedup;
mod gate;
mod handshake;
mod io;
mod request;
mod shares;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::accept::Acceptor;
use super::quota::Quotas;
use crate::clock::Clock;
use crate::control::snapshot::Snapshots;
use crate::event::Revision;
use crate::plugin::Runtime;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Spans;
use shares::{Share, Shares};

pub use tls::{TlsError, tls_config};

/// How long to wait after a failed accept(2) (usually: no file descriptors left) before the next.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What a sender may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Open connections of one address (IPv6: of one /64).
    pub connections_per_peer: usize,
    /// Peers that the limits for one address don't count: proxies that many senders stand behind.
    pub trusted_proxies: Vec<IpNet>,
    /// Bytes of a request's line and headers.
    pub head_bytes: usize,
    /// Header lines; hyper itself refuses more than 100.
    pub header_count: usize,
    /// Bytes of all bodies being read or waiting for the store.
    pub body_bytes: usize,
    /// Of these, bytes from one address.
    pub body_bytes_per_peer: usize,
    /// Of these, bytes to one source.
    pub body_bytes_per_source: usize,
    /// HTTP/2: streams of one connection at once.
    pub streams: u32,
    /// HTTP/2: streams that a peer may reset before we have dealt with them.
    pub resets: usize,
    /// HTTP/2: flow-control window of a stream; a connection's is four times as large.
    pub window: u32,
    /// From a head's first byte (on a new connection, from its start, TLS included) to its last.
    pub head: Duration,
    /// From a head to the end of its body.
    pub body: Duration,
    /// Bytes per second that a body must bring...
    pub body_rate: u64,
    /// ...after this time.
    pub body_grace: Duration,
    /// A connection without a request.
    pub idle: Duration,
    /// A response that the peer does not read.
    pub write: Duration,
    /// From a head to its answer: what is left of it after the body is how long the store may take.
    pub total: Duration,
    /// What a refused sender may still send before it is cut off, so that it gets to read the refusal.
    pub linger_bytes: usize,
    /// How long it may do so.
    pub linger: Duration,
    /// How long requests in flight may take at a graceful stop.
    pub drain: Duration,
    /// `Retry-After` of a 503 is between one second and this.
    pub retry_after: Duration,
    /// Requests of one tenant that wait for its plugins.
    pub gate_queue: usize,
    /// How long a request may wait for them.
    pub gate_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            connections_per_peer: 1024,
            trusted_proxies: Vec::new(),
            head_bytes: 32 << 10,
            header_count: 96,
            body_bytes: 256 << 20,
            body_bytes_per_peer: 64 << 20,
            body_bytes_per_source: 128 << 20,
            streams: 128,
            resets: 32,
            window: 256 << 10,
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            body_rate: 1024,
            body_grace: Duration::from_secs(5),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(10),
            total: Duration::from_secs(40),
            linger_bytes: 4 << 20,
            linger: Duration::from_secs(2),
            drain: Duration::from_secs(20),
            retry_after: Duration::from_secs(5),
            gate_queue: 32,
            gate_wait: Duration::from_secs(5),
        }
    }
}

/// What the server works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where sources are looked up.
    pub snapshots: Snapshots,
    /// Keeps events, and knows what their tenants may use.
    pub acceptor: Acceptor,
    /// Tells the time of acceptance.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// Takes accept spans.
    pub spans: Spans,
    /// Runs sources' plugins; without it sources that name some refuse all.
    pub plugins: Option<Runtime>,
}

/// The ingest server.
pub struct Server {
    shared: Arc<Shared>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    open: Arc<Semaphore>,
    peers: Shares<std::net::IpAddr>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("limits", &self.shared.limits).field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// What every connection works with.
struct Shared {
    parts: Parts,
    limits: Limits,
    bodies: Arc<Semaphore>,
    peer_bodies: Shares<std::net::IpAddr>,
    source_bodies: Shares<crate::event::SourceId>,
    closing: CancellationToken,
    gate: Option<gate::Gate>,
}

/// How the server stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that were cut because they did not finish in time.
    pub cut: usize,
}

impl Server {
    /// A server that speaks TLS if `tls` is given.
    pub fn new(parts: Parts, limits: Limits, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let open = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        let shared = Shared {
            bodies: Arc::new(Semaphore::new(limits.body_bytes.min(Semaphore::MAX_PERMITS))),
            peer_bodies: Shares::new(limits.body_bytes_per_peer),
            source_bodies: Shares::new(limits.body_bytes_per_source),
            closing: CancellationToken::new(),
            gate: parts.plugins.clone().map(|plugins| gate::Gate::new(plugins, &limits)),
            parts,
            limits,
        };
        let peers = Shares::new(shared.limits.connections_per_peer);
        Self { shared: Arc::new(shared), tls: tls.map(Into::into), open, peers }
    }

    /// Serves until `shutdown` completes; then closes the listener, lets requests in flight finish within [`Limits::drain`],
    /// tells keep-alive connections to close, and cuts what is left.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Stopped {
        let mut connections = JoinSet::new();
        let Parts { snapshots, acceptor, .. } = self.shared.parts.clone();
        let _forgetting = AbortOnDropHandle::new(tokio::spawn(forget_who_is_gone(snapshots, acceptor.quotas().clone())));
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                (permit, stream, peer) = self.next(&listener) => self.spawn(&mut connections, permit, stream, peer),
            }
        }
        drop(listener);
        self.shared.closing.cancel();
        let drained = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(self.shared.limits.drain, drained).await;
        let cut = connections.len();
        connections.shutdown().await;
        Stopped { cut }
    }

    /// The next connection. Its permit comes first, so that what is over the limit waits in the kernel's queue.
    async fn next(&self, listener: &TcpListener) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
        loop {
            // Never closed, so this fails never; but then nothing more is to be accepted anyhow.
            let Ok(permit) = self.open.clone().acquire_owned().await else { std::future::pending().await };
            match listener.accept().await {
                Ok((stream, peer)) => return (permit, stream, peer),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections; trying again");
                    self.shared.parts.metrics.connection_refused("accept_failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    fn spawn(&self, connections: &mut JoinSet<()>, permit: OwnedSemaphorePermit, stream: TcpStream, peer: SocketAddr) {
        let limits = &self.shared.limits;
        let address = shares::network(peer.ip());
        let trusted = limits.trusted_proxies.iter().any(|net| net.contains(&peer.ip()));
        let place = if trusted { Some(Share::none()) } else { self.peers.take(address, 1) };
        let Some(place) = place else {
            // Closed at once: an answer would cost more than the attempt did.
            self.shared.parts.metrics.connection_refused("per_peer");
            return;
        };
        let bodies = (!trusted).then(|| self.shared.peer_bodies.of(address));
        let peer = connection::Peer { bodies, _place: place, _permit: permit, _gauge: self.shared.parts.metrics.connection() };
        connections.spawn(connection::serve(self.shared.clone(), self.tls.clone(), stream, peer));
    }
}

/// Forgets the quotas of tenants that are gone, whenever the configuration changes.
async fn forget_who_is_gone(snapshots: Snapshots, quotas: Arc<Quotas>) {
    let mut seen = snapshots.load().revision;
    loop {
        let snapshot = snapshots.at_least(Revision(seen.0.saturating_add(1))).await;
        seen = snapshot.revision;
        quotas.retain(|tenant| snapshot.tenants.contains_key(&tenant));
    }
}

/// Errors of accept(2) that say something about that connection and nothing about the next.
fn concerns_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
