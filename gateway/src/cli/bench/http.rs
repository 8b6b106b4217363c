//! One request on a connection of its own: for what stands outside the measurements.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::BenchError;

/// The largest answer: a log of some millions of deliveries.
const MAX_ANSWER: usize = 1 << 30;

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(60);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Sends one request.
pub(super) async fn call(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), BenchError> {
    let what = format!("{} {}", request.method(), request.uri().path());
    let answer = timeout(DEADLINE, exchange(address, request)).await.unwrap_or_else(|late| Err(late.into()));
    answer.map_err(|source| BenchError::Http { what, source })
}

async fn exchange(address: SocketAddr, mut request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Cause> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    request.headers_mut().insert(http::header::HOST, address.to_string().parse()?);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = read(answer.into_body(), MAX_ANSWER).await?;
    drop(sender);
    connection.await??;
    Ok((status, body))
}

/// Reads a body to its end. One that comes in one frame is not copied.
pub(super) async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, Cause> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len() + more.len() + data.len() > limit {
            return Err(format!("a body of more than {limit} bytes").into());
        }
        if first.is_empty() {
            first = data;
            if body.is_end_stream() {
                return Ok(first);
            }
        } else {
            more.extend_from_slice(&data);
        }
    }
    if more.is_empty() {
        return Ok(first);
    }
    let mut all = BytesMut::from(&first[..]);
    all.extend_from_slice(&more);
    Ok(all.freeze())
}
