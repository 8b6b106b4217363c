//! HTTP over a stream to a destination, and the tasks that move its bytes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

use super::client::MAX_RESPONSE_HEAD;
use super::fault::Fault;
use super::metered::{Allowance, Metered};
use super::pool::{Connection, Driver, Http1, Pool};
use super::target::PoolKey;

/// How often the server behind an HTTP/2 connection is asked whether it lives while requests wait for it.
const H2_PING_EVERY: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What an HTTP/2 server may send of one body before it is read.
pub(super) const H2_STREAM_WINDOW: u32 = 64 * 1024;
/// Settings, pings and the like, on any HTTP/2 connection.
const H2_HOUSEKEEPING: usize = 256 * 1024;

/// HTTP/1.1, for one request at a time.
pub(super) async fn http1<T>(stream: T, permit: OwnedSemaphorePermit) -> Result<Connection, Fault>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let allowance = Allowance::default();
    let io = TokioIo::new(Metered::new(stream, allowance.clone(), permit));
    let (sender, connection) =
        http1::Builder::new().max_buf_size(MAX_RESPONSE_HEAD).handshake(io).await.map_err(|error| Fault::from(&error))?;
    let driver = Driver::new([drive(connection)]);
    Ok(Connection::Http1(Http1 { sender, allowance, _driver: driver }))
}

/// HTTP/2, for this request and others under the same key.
pub(super) async fn http2<T>(pool: &Arc<Pool>, key: PoolKey, stream: T, permit: OwnedSemaphorePermit) -> Result<Connection, Fault>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let allowance = Allowance::default();
    allowance.add(H2_HOUSEKEEPING);
    let io = TokioIo::new(Metered::new(stream, allowance.clone(), permit));
    let tasks = Tasks::default();
    let (sender, connection) = http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .max_header_list_size(MAX_RESPONSE_HEAD as u32)
        .keep_alive_interval(H2_PING_EVERY)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .handshake(io)
        .await
        .map_err(|error| Fault::from(&error))?;
    let driver = Driver::new([drive(connection)].into_iter().chain(tasks.0.get().cloned()));
    Ok(Connection::Http2(pool.share(key, sender, allowance, driver)))
}

fn drive<E: std::error::Error>(connection: impl Future<Output = Result<(), E>> + Send + 'static) -> AbortHandle {
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    task.abort_handle()
}

/// Starts what hyper wants to run beside an HTTP/2 connection, and keeps hold of the first, which moves its bytes. Left to itself that one would
/// take its time to say goodbye, for ever where the server does not read.
#[derive(Clone, Default)]
struct Tasks(Arc<OnceLock<AbortHandle>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let task = tokio::spawn(task);
        self.0.get_or_init(|| task.abort_handle());
    }
}
