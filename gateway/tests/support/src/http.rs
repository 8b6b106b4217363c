//! A receiver that remembers every request and answers as it is told, and a client for single requests. HTTP/1.1.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Interval, interval};

use crate::now;

const MAX_BODY_BYTES: usize = 256 << 20;
const CLIENT_DEADLINE: Duration = Duration::from_secs(60);
const FLOOD_CHUNK: &[u8] = &[b'x'; 64 << 10];

/// A request that reached the receiver.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its place in the order of arrival, from 0.
    pub number: usize,
    /// The connection's other end: requests on one connection share it.
    pub peer: SocketAddr,
    /// The method.
    pub method: Method,
    /// Path and query as sent.
    pub target: String,
    /// The headers, repeated ones in order.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// When the body was complete.
    pub at: SystemTime,
}

impl Received {
    /// A header as text; panics where it is not.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of text"))
    }

    /// `webhook-id`, which names a delivery.
    pub fn webhook_id(&self) -> Option<&str> {
        self.header("webhook-id")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }
}

/// What the receiver does with a request that it has read.
#[derive(Clone, Debug)]
pub struct Answer {
    after: Duration,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Reply { status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>, body: Content },
    Hang,
    Disconnect,
}

#[derive(Clone, Debug)]
enum Content {
    Whole(Bytes),
    Drip { every: Duration, bytes: Bytes },
    Flood { bytes: u64 },
}

impl Answer {
    /// A status with an empty body.
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status code");
        Self { after: Duration::ZERO, what: What::Reply { status, headers: Vec::new(), body: Content::Whole(Bytes::new()) } }
    }

    /// A redirect (302).
    pub fn redirect(location: &str) -> Self {
        Self::status(302).header("location", location)
    }

    /// No answer; the connection stays open.
    pub fn hang() -> Self {
        Self { after: Duration::ZERO, what: What::Hang }
    }

    /// No answer; the connection is closed.
    pub fn disconnect() -> Self {
        Self { after: Duration::ZERO, what: What::Disconnect }
    }

    /// Waits before it answers.
    pub fn after(self, delay: Duration) -> Self {
        Self { after: delay, ..self }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let What::Reply { headers, .. } = &mut self.what {
            headers.push((name.parse().expect("a header's name"), value.parse().expect("a header's value")));
        }
        self
    }

    /// With this body.
    pub fn body(self, bytes: impl Into<Bytes>) -> Self {
        self.content(Content::Whole(bytes.into()))
    }

    /// With this body, one byte at a time.
    pub fn dripping(self, every: Duration, bytes: impl Into<Bytes>) -> Self {
        self.content(Content::Drip { every, bytes: bytes.into() })
    }

    /// With a body of so many bytes, without a length, as fast as they are taken.
    pub fn flooding(self, bytes: u64) -> Self {
        self.content(Content::Flood { bytes })
    }

    fn content(mut self, content: Content) -> Self {
        if let What::Reply { body, .. } = &mut self.what {
            *body = content;
        }
        self
    }
}

type Script = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

/// An HTTP server that keeps every request. It answers 200 until told otherwise; stops on drop.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

struct State {
    requests: Mutex<Vec<Received>>,
    script: Mutex<Script>,
    arrived: watch::Sender<usize>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            requests: Mutex::new(Vec::new()),
            script: Mutex::new(Arc::new(|_| Answer::status(200))),
            arrived: watch::Sender::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT` and `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on answers every request so.
    pub fn answer(&self, answer: Answer) {
        self.answer_with(move |_| answer.clone());
    }

    /// Answers the next requests with these, one each, and those after them with `then`.
    pub fn answer_in_turn(&self, answers: impl IntoIterator<Item = Answer>, then: Answer) {
        let answers = Mutex::new(answers.into_iter().collect::<VecDeque<_>>());
        self.answer_with(move |_| lock(&answers).pop_front().unwrap_or_else(|| then.clone()));
    }

    /// From now on asks `script` for each answer.
    pub fn answer_with(&self, script: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *lock(&self.state.script) = Arc::new(script);
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Received> {
        lock(&self.state.requests).clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        lock(&self.state.requests).len()
    }

    /// Waits for at least `count` requests, and gives all.
    pub async fn wait_for(&self, count: usize, within: Duration) -> Vec<Received> {
        self.wait_until(within, |requests| requests.len() >= count).await
    }

    /// Waits until the requests so far satisfy `enough`, and gives them; panics with what came when they do not in time.
    pub async fn wait_until(&self, within: Duration, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let mut arrived = self.state.arrived.subscribe();
        let waiting = arrived.wait_for(|_| enough(&lock(&self.state.requests)));
        if tokio::time::timeout(within, waiting).await.is_err() {
            let came: Vec<_> =
                self.requests().iter().map(|one| format!("{} {} {:?}", one.method, one.target, one.webhook_id())).collect();
            panic!("not enough requests within {within:?}; {} came: {:#?}", came.len(), &came[came.len().saturating_sub(20)..]);
        }
        self.requests()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Dropped, and its connections with it, when the receiver ends this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| respond(Arc::clone(&state), peer, request));
            // An error is the client's hanging up or the script's disconnecting.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Ends the connection without an answer.
#[derive(Debug)]
struct Disconnected;

impl fmt::Display for Disconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the script disconnects")
    }
}

impl std::error::Error for Disconnected {}

async fn respond(state: Arc<State>, peer: SocketAddr, request: Request<Incoming>) -> Result<Response<Outgoing>, Disconnected> {
    let (head, body) = request.into_parts();
    let Ok(body) = read_whole(body).await else { return Err(Disconnected) };
    let received = state.keep(Received {
        number: 0,
        peer,
        method: head.method,
        target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: head.headers,
        body,
        at: now(),
    });
    let script = Arc::clone(&lock(&state.script));
    let answer = script(&received);
    if !answer.after.is_zero() {
        tokio::time::sleep(answer.after).await;
    }
    match answer.what {
        What::Hang => std::future::pending().await,
        What::Disconnect => Err(Disconnected),
        What::Reply { status, headers, body } => {
            let mut response = Response::new(Outgoing::new(body));
            *response.status_mut() = status;
            response.headers_mut().extend(headers);
            Ok(response)
        }
    }
}

impl State {
    fn keep(&self, mut received: Received) -> Received {
        let mut requests = lock(&self.requests);
        received.number = requests.len();
        requests.push(received.clone());
        drop(requests);
        self.arrived.send_replace(received.number + 1);
        received
    }
}

enum Outgoing {
    Whole(Full<Bytes>),
    Drip { tick: Interval, left: Bytes },
    Flood { left: u64 },
}

impl Outgoing {
    fn new(content: Content) -> Self {
        match content {
            Content::Whole(bytes) => Self::Whole(Full::new(bytes)),
            Content::Drip { every, bytes } => Self::Drip { tick: interval(every), left: bytes },
            Content::Flood { bytes } => Self::Flood { left: bytes },
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Whole(body) => return Pin::new(body).poll_frame(cx),
            Self::Drip { left, .. } if left.is_empty() => return Poll::Ready(None),
            Self::Drip { tick, left } => {
                std::task::ready!(tick.poll_tick(cx));
                left.split_to(1)
            }
            Self::Flood { left: 0 } => return Poll::Ready(None),
            Self::Flood { left } => {
                let piece = usize::try_from(*left).unwrap_or(usize::MAX).min(FLOOD_CHUNK.len());
                *left -= piece as u64;
                Bytes::from_static(&FLOOD_CHUNK[..piece])
            }
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// An answer that the client got.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in the answer {} {:?}", self.status, self.body))
    }

    /// A header as text; panics where it is not.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of text"))
    }
}

/// Sends one request on a connection of its own.
pub async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    try_send(method, url, headers, body).await.unwrap_or_else(|error| panic!("{method} {url}: {error}"))
}

/// Like [`send`], for a server that may not be there, or go away. A connection error does not say whether the request was handled.
pub async fn try_send(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Reply, SendError> {
    let uri: Uri = url.parse().expect("a URL");
    let authority = uri.authority().expect("a URL with a host").clone();
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::builder().method(method).uri(target).header("host", authority.as_str());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).expect("a request");
    let exchange = async {
        let stream = TcpStream::connect(authority.as_str()).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = read_whole(body).await?;
        connection.abort();
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::time::timeout(CLIENT_DEADLINE, exchange).await.map_err(|late| Box::new(late) as SendError)?
}

/// Why a request got no answer.
pub type SendError = Box<dyn std::error::Error + Send + Sync>;

async fn read_whole(body: Incoming) -> Result<Bytes, SendError> {
    #[allow(clippy::disallowed_methods, reason = "limited")]
    let collected = Limited::new(body, MAX_BODY_BYTES).collect().await?;
    Ok(collected.to_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A script that panicked fails its test by itself.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
