//! What the gateway is compared with: the same work on the same runtime, without keeping anything.
//!
//! Accepting is a bare hyper server that reads the body and answers 202. Delivering forwards the body with a bare hyper client,
//! one connection for each that came in, before it answers; with a component, what is forwarded is the component's output.

mod wasm;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::error::BenchError;
use super::{http, part};
pub(super) use wasm::Guest;

/// The largest body that it takes: the gateway's own default.
const MAX_BODY: usize = 1 << 20;

/// As long as the gateway's answer.
const ANSWER: &str = r#"{"id":"evt_00000000000000000000000000"}"#;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Args)]
pub(super) struct FloorArgs {
    /// Runtime threads: as many as the gateway has.
    #[arg(long)]
    threads: usize,
    /// Forward there before answering.
    #[arg(long)]
    forward: Option<SocketAddr>,
    /// Run this component over each event.
    #[arg(long, requires = "forward")]
    component: Option<PathBuf>,
}

/// Runs until its input ends.
pub(super) fn run(args: &FloorArgs) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.threads)
        .enable_all()
        .build()
        .map_err(BenchError::io("runtime"))?;
    let guest = args.component.as_deref().map(|path| Guest::load(path, args.threads).map(Arc::new)).transpose()?;
    let forward = args.forward;
    runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(BenchError::io("bind"))?;
        let orders = part::Orders::ready(Some(listener.local_addr().map_err(BenchError::io("bind"))?))?;
        // On the runtime's threads, where the gateway accepts too; this thread only waits.
        let server = tokio::spawn(serve(listener, forward, guest));
        orders.end().await;
        server.abort();
        Ok(())
    })
}

async fn serve(listener: TcpListener, forward: Option<SocketAddr>, guest: Option<Arc<Guest>>) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let guest = guest.clone();
        tokio::spawn(async move {
            let onward = match forward {
                Some(address) => Some(Onward::connect(address, guest).await?),
                None => None,
            };
            let service = service_fn(move |request| answer(request, onward.clone()));
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
            Ok::<_, Cause>(())
        });
    }
}

async fn answer(request: Request<Incoming>, onward: Option<Onward>) -> Result<Response<Full<Bytes>>, Cause> {
    let (head, body) = request.into_parts();
    let body = http::read(body, MAX_BODY).await?;
    if let Some(onward) = onward {
        onward.send(&head, body).await?;
    }
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// A connection to the receiver, and what to do before it.
#[derive(Clone)]
struct Onward {
    host: HeaderValue,
    sender: Arc<Mutex<SendRequest<Full<Bytes>>>>,
    guest: Option<Arc<Guest>>,
}

impl Onward {
    async fn connect(address: SocketAddr, guest: Option<Arc<Guest>>) -> Result<Self, Cause> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { host: address.to_string().parse()?, sender: Arc::new(Mutex::new(sender)), guest })
    }

    async fn send(&self, head: &Parts, body: Bytes) -> Result<(), Cause> {
        let body = match &self.guest {
            Some(guest) => guest.transform(head, &body)?,
            None => body,
        };
        let request = Request::post("/hook").header(HOST, self.host.clone()).header(CONTENT_TYPE, JSON).body(Full::new(body))?;
        let mut sender = self.sender.lock().await;
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the receiver answered {}", answer.status()).into());
        }
        http::read(answer.into_body(), MAX_BODY).await?;
        Ok(())
    }
}
