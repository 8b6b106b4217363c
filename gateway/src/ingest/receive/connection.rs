//! One connection: TLS, HTTP, and the watch over its deadlines.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::io::{Activity, Watched};
use super::shares::{Holder, Share};
use super::{Limits, Shared, request};
use crate::clock;
use crate::telemetry::metrics::Gauged;

/// Below this hyper does not work.
const HYPER_SMALLEST_BUFFER: usize = 8192;
/// Largest HTTP/2 frame: also the largest piece in which a body comes.
const FRAME: u32 = 64 << 10;

/// Who is at the other end, and what the connection holds until it ends.
#[derive(Debug)]
pub(super) struct Peer {
    /// What its address may hold of the budget for bodies; none if it stands for many.
    pub(super) bodies: Option<Holder>,
    pub(super) _place: Share,
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _gauge: Gauged,
}

/// What a connection's requests share: one count to keep for each of them.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
    pub(super) activity: Arc<Activity>,
}

pub(super) async fn serve(shared: Arc<Shared>, tls: Option<tokio_rustls::TlsAcceptor>, stream: TcpStream, peer: Peer) {
    // Fails only on a socket that is dead already, which the first read will tell.
    let _ = stream.set_nodelay(true);
    let activity = Arc::new(Activity::new());
    let Some(tls) = tls else { return http(shared, stream, activity, peer).await };
    match tokio::time::timeout(shared.limits.head, tls.accept(stream)).await {
        Ok(Ok(stream)) => http(shared, stream, activity, peer).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => shared.parts.metrics.connection_refused("tls_handshake"),
    }
}

async fn http<T>(shared: Arc<Shared>, stream: T, activity: Arc<Activity>, peer: Peer)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let http = protocol(limits);
    let io = TokioIo::new(Watched::new(stream, activity.clone(), limits));
    let context = Arc::new(Context { shared: shared.clone(), peer, activity: activity.clone() });
    let service = service_fn(|request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(request::handle(&context, request).await) }
    });
    let connection = http.serve_connection(io, service);
    let watch = tokio::time::sleep(look_again(limits));
    let closing = shared.closing.cancelled();
    tokio::pin!(connection, watch, closing);
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "connection ended");
                }
                return;
            }
            () = &mut closing, if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut watch => {
                let now = clock::monotonic();
                let deadline = activity.deadline(limits);
                if deadline.is_some_and(|deadline| deadline <= now) {
                    return;
                }
                // A request that is overdue notices when the connection is polled again, which is next.
                let overdue = activity.look_at_request(now, limits);
                let next = [deadline, overdue].into_iter().flatten().fold(now + look_again(limits), Instant::min);
                watch.as_mut().reset(next.into());
            }
        }
    }
}

/// Deadlines are looked at this often at least, so that one that begins while another is waited for is not met late.
fn look_again(limits: &Limits) -> Duration {
    limits.head.min(limits.idle).min(limits.write).min(limits.total)
}

fn protocol(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // Heads up to twice the limit are read, so that the refusal can say what is wrong.
    let buffer = limits.head_bytes.saturating_mul(2).max(HYPER_SMALLEST_BUFFER);
    http.http1()
        // The watch has this deadline, and tells a head that comes slowly from a connection that is idle.
        .header_read_timeout(None)
        .max_buf_size(buffer);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.resets)
        .max_local_error_reset_streams(limits.resets)
        .max_header_list_size(u32::try_from(buffer).unwrap_or(u32::MAX))
        .initial_stream_window_size(limits.window)
        .initial_connection_window_size(limits.window.saturating_mul(4))
        .max_frame_size(FRAME)
        .max_send_buf_size(FRAME as usize)
        .keep_alive_interval(Some(limits.idle))
        .keep_alive_timeout(limits.head);
    http
}
