//! The destination that `tidegate dev` delivers to: takes everything and shows what came, or does wrong what its path asks for (`faults`).

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::faults::{self, Harmless};

/// More than this of a body is not shown.
const MAX_BODY: usize = 1 << 20;

/// A delivery as it came in.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Delivered {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Answers 200 to everything and hands it on, for as long as somebody listens.
pub(super) async fn run(listener: TcpListener, deliveries: mpsc::Sender<Delivered>) {
    while !deliveries.is_closed() {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let deliveries = deliveries.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, deliveries.clone()));
            let Some(Harmless { stream }) = faults::meet(stream).await else { return };
            let served = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                tracing::debug!(%error, "connection to the receiver ended");
            }
        });
    }
}

#[allow(clippy::disallowed_methods, reason = "the body is limited")]
async fn answer(request: Request<Incoming>, deliveries: mpsc::Sender<Delivered>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Full::new(Bytes::new()));
    if head.method == Method::GET && head.uri.path() == "/fault" {
        *response.body_mut() = Full::new(faults::list().into());
        return Ok(response);
    }
    if head.uri.path().starts_with(faults::PREFIX) {
        // A fault is its connection's first request; or there is none of that name.
        *response.status_mut() = http::StatusCode::MISDIRECTED_REQUEST;
        response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        return Ok(response);
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => {
            let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
            let delivered = Delivered { method: head.method, path, headers: head.headers, body: body.to_bytes() };
            // A full queue means that the terminal is slower than the deliveries: taking the request matters more than showing it.
            let _ = deliveries.try_send(delivered);
        }
        Err(_) => *response.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE,
    }
    Ok(response)
}
