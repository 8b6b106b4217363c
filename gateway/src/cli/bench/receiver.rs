//! Where deliveries arrive: a bare server that answers 200 at once and remembers what came.
//!
//! `GET /count` gives how many deliveries have come, `GET /log` a line for each that has an id: `webhook-id`, a space, and when
//! its head had been read, in microseconds since the epoch.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::error::BenchError;
use super::{http, part};
use crate::clock;
use crate::event::DeliveryId;

/// The largest delivery that it takes.
const MAX_BODY: usize = 1 << 20;

/// Deliveries to this path are never answered, and not remembered.
pub(super) const HANG: &str = "/hang";
/// Deliveries to this path wait until somebody asked for [`OPEN`].
pub(super) const GATE: &str = "/gate";
/// `GET` of it lets the deliveries to [`GATE`] through.
pub(super) const OPEN: &str = "/open";

#[derive(Default)]
struct Log {
    gate: watch::Sender<bool>,
    count: u64,
    /// Deliveries with a readable id: that id, and when it came.
    ids: Vec<(DeliveryId, u64)>,
}

/// Runs until its input ends.
pub(super) fn run() -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::io("runtime"))?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(BenchError::io("bind"))?;
        let orders = part::Orders::ready(Some(listener.local_addr().map_err(BenchError::io("bind"))?))?;
        tokio::select! {
            failed = serve(listener) => failed.map_err(BenchError::io("accept"))?,
            () = orders.end() => {}
        }
        Ok(())
    })
}

async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let log = Arc::new(Mutex::new(Log::default()));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let log = log.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, log.clone()));
            // A connection that fails is the sender's to report.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, log: Arc<Mutex<Log>>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let arrived = clock::wall_micros();
    if request.method() == Method::GET {
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match request.uri().path() {
            "/log" => log.lines(),
            OPEN => log.gate.send_replace(true).to_string(),
            _ => log.count.to_string(),
        };
        return Ok(Response::new(Full::new(text.into())));
    }
    if request.uri().path() == HANG {
        return std::future::pending().await;
    }
    if request.uri().path() == GATE {
        let mut gate = log.lock().unwrap_or_else(PoisonError::into_inner).gate.subscribe();
        // The sender lives as long as the receiver.
        let _ = gate.wait_for(|open| *open).await;
    }
    let id = request.headers().get("webhook-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse::<DeliveryId>().ok());
    let complete = http::read(request.into_body(), MAX_BODY).await.is_ok_and(|body| !body.is_empty());
    let mut response = Response::new(Full::default());
    if complete {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.count += 1;
        log.ids.extend(id.map(|id| (id, arrived)));
    } else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

impl Log {
    fn lines(&self) -> String {
        self.ids.iter().fold(String::new(), |mut text, (id, arrived)| {
            let _ = writeln!(text, "{id} {arrived}");
            text
        })
    }
}
