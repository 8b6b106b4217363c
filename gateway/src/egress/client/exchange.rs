//! One request and its response, step by step. What is known so far stands outside the running future, so that a deadline that ends it
//! loses nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Request, Response, StatusCode, Uri, response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::auth::{Credentials, Token};
use super::super::connect;
use super::super::fault::{Fault, is_unprocessed};
use super::super::gzip;
use super::super::handshake::{self, H2_STREAM_WINDOW};
use super::super::pool::{Admission, Connection, Gate, Http1, Spoken};
use super::super::proxy::Proxy;
use super::super::target::Target;
use super::{Inner, MAX_RESPONSE_HEAD, OutRequest};
use crate::clock::Clock;

/// How long a connection may take to come to rest after its response before it is not kept.
const SETTLE: Duration = Duration::from_secs(1);
/// Each byte of a body may come in a chunk of its own, with five bytes of frame.
const CHUNKED_OVERHEAD: usize = 6;

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::egress) enum Stage {
    Token,
    Admission,
    Resolve,
    Connect,
    Tls,
    Response,
}

pub(in crate::egress) struct Exchange<'a> {
    inner: &'a Inner,
    pub(super) request: OutRequest,
    pub(super) clock: &'a Clock,
    /// What is kept of the response's body, in bytes.
    max_response: usize,
    token: Option<Token>,
    stage: Stage,
    /// Told whether it waits for a connection.
    tells: Option<&'a AtomicBool>,
    /// Where it waits, or waited, for its turn to connect.
    gate: Option<Arc<Gate>>,
    pub(super) resent: bool,
    pub(in crate::egress) head: Option<response::Parts>,
    pub(in crate::egress) response: Kept,
    pub(super) response_complete: bool,
}

type Message = Request<Full<Bytes>>;

impl<'a> Exchange<'a> {
    pub(in crate::egress) fn new(inner: &'a Inner, request: OutRequest, clock: &'a Clock, max_response: usize) -> Self {
        Self {
            inner,
            request,
            clock,
            max_response,
            token: None,
            stage: Stage::Admission,
            tells: None,
            gate: None,
            resent: false,
            head: None,
            response: Kept::default(),
            response_complete: false,
        }
    }

    /// Has others know from now on whether it waits for a connection.
    pub(in crate::egress) fn telling(mut self, lacks_connection: &'a AtomicBool) -> Self {
        self.tells = Some(lacks_connection);
        self.enter(Stage::Admission);
        self
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        if let Some(lacks_connection) = self.tells {
            lacks_connection.store(stage == Stage::Admission, Ordering::Relaxed);
        }
    }

    pub(in crate::egress) async fn run(&mut self) -> Result<(), Fault> {
        if self.request.gzip {
            Box::pin(gzip::compress(&mut self.request)).await;
        }
        if let Some(credentials) = self.request.credentials.clone() {
            self.authorize(credentials).await?;
        }
        let key = self.request.target.key;
        let Admission { permits: _permits, spoken, gate, connection } = self.inner.pool.admit(key).await;
        let kept = connection.is_some();
        let connection = match connection {
            Some(connection) => connection,
            // On the heap, as whatever is rare here: most requests need none of it, and all carry its room along.
            None => Box::pin(self.connect(spoken, &gate)).await?,
        };
        match self.exchange(connection).await {
            Err(Unsent { unwritten, unprocessed, .. }) if unprocessed || (unwritten && kept) => {
                self.resent = true;
                let connection = Box::pin(self.connect(spoken, &gate)).await?;
                Box::pin(self.exchange(connection)).await.map_err(|unsent| unsent.fault)
            }
            outcome => outcome.map_err(|unsent| unsent.fault),
        }
    }

    /// Why it fails if its time is over now. Who waits for another's token or connection lacks what that one lacks.
    pub(in crate::egress) fn timed_out(&self) -> Fault {
        let lacks_connection = match (self.stage, self.request.credentials.as_deref(), &self.gate) {
            (Stage::Token, Some(Credentials::OAuth(oauth)), _) => oauth.lacks_connection(),
            (Stage::Connect, _, Some(gate)) => gate.lacks_connection.load(Ordering::Relaxed),
            _ => false,
        };
        if lacks_connection { Fault::NoCapacity } else { self.stage.timed_out() }
    }

    /// Gives the request its credentials. On the heap, since a token is got by an exchange like this.
    fn authorize(&mut self, credentials: Arc<Credentials>) -> Pin<Box<dyn Future<Output = Result<(), Fault>> + Send + '_>> {
        Box::pin(async move {
            match &*credentials {
                Credentials::Aws(aws) => aws.sign(&mut self.request, self.clock.now()),
                Credentials::OAuth(oauth) => {
                    self.enter(Stage::Token);
                    let token = oauth.token(self.inner, self.clock).await?;
                    self.enter(Stage::Admission);
                    self.request.headers.insert(AUTHORIZATION, token.header.clone());
                    self.token = Some(token);
                    Ok(())
                }
            }
        })
    }

    /// Whether a token that was good before is good no more; it is forgotten.
    pub(super) fn token_ended(&self) -> bool {
        let is_refused = self.head.as_ref().is_some_and(|head| head.status == StatusCode::UNAUTHORIZED);
        let (Some(token), Some(Credentials::OAuth(oauth)), true) = (&self.token, self.request.credentials.as_deref(), is_refused)
        else {
            return false;
        };
        oauth.refused(token);
        !token.is_fresh
    }

    /// Opens a connection. Where it may turn out that many requests can share one, the first opens it and the others wait for that.
    async fn connect(&mut self, spoken: Spoken, gate: &Arc<Gate>) -> Result<Connection, Fault> {
        let may_share = self.request.target.is_tls() && self.request.target.http2 && spoken != Spoken::Http1;
        if !may_share {
            let permit = self.may_open().await;
            return self.open(permit).await;
        }
        self.enter(Stage::Connect);
        self.gate = Some(Arc::clone(gate));
        let turn = tokio::time::timeout(self.inner.connect_timeout, gate.turn.lock()).await;
        let _turn = turn.map_err(|_| self.timed_out())?;
        if let Some(connection) = self.inner.pool.checkout(self.request.target.key) {
            return Ok(connection);
        }
        gate.lacks_connection.store(true, Ordering::Relaxed);
        let permit = self.may_open().await;
        gate.lacks_connection.store(false, Ordering::Relaxed);
        self.open(permit).await
    }

    async fn may_open(&mut self) -> OwnedSemaphorePermit {
        self.enter(Stage::Admission);
        self.inner.pool.may_open().await
    }

    async fn open(&mut self, permit: OwnedSemaphorePermit) -> Result<Connection, Fault> {
        let limit = self.inner.connect_timeout;
        match tokio::time::timeout(limit, self.dial(permit)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.timed_out()),
        }
    }

    async fn dial(&mut self, permit: OwnedSemaphorePermit) -> Result<Connection, Fault> {
        let (inner, target) = (self.inner, Arc::clone(&self.request.target));
        self.enter(Stage::Resolve);
        if let Some(proxy) = &target.proxy {
            let tunnel = proxy.lead(inner, &target, &mut self.stage).await?;
            return self.speak(tunnel, &target, permit).await;
        }
        if let Some(proxy) = Proxy::of_environment(inner, &target)? {
            let tunnel = proxy.lead(inner, &target, &mut self.stage).await?;
            return self.speak(tunnel, &target, permit).await;
        }
        let addresses = inner.resolver.resolve(&target).await?;
        self.enter(Stage::Connect);
        let stream = connect::tcp(&addresses).await?;
        self.speak(stream, &target, permit).await
    }

    /// TLS and HTTP over a stream to the target.
    async fn speak<T>(&mut self, stream: T, target: &Target, permit: OwnedSemaphorePermit) -> Result<Connection, Fault>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if !target.is_tls() {
            return handshake::http1(stream, permit).await;
        }
        self.enter(Stage::Tls);
        let (stream, is_http2) = self.inner.tls.connect(target, stream).await?;
        if is_http2 {
            handshake::http2(&self.inner.pool, target.key, stream, permit).await
        } else {
            handshake::http1(stream, permit).await
        }
    }

    async fn exchange(&mut self, connection: Connection) -> Result<(), Unsent> {
        self.enter(Stage::Response);
        match connection {
            Connection::Http1(mut connection) => {
                connection.allowance.set(self.allowance());
                let message = self.message(Spoken::Http1);
                let response = connection.sender.try_send_request(message).await.map_err(|error| self.unsent(error))?;
                self.read(response).await;
                if self.response_complete {
                    self.keep(connection);
                }
            }
            Connection::Http2(connection) => {
                connection.allowance.add(self.allowance());
                // A response that does not come may mean that nothing comes any more; the next request finds out on a new connection.
                let doubt = Doubt(Some(&connection));
                let mut sender = connection.sender.clone();
                let message = self.message(Spoken::Http2);
                let response = sender.try_send_request(message).await.map_err(|error| {
                    let unsent = self.unsent(error);
                    if connection.allowance.is_used_up() { Unsent { fault: Fault::HeadTooLarge, ..unsent } } else { unsent }
                })?;
                doubt.settle();
                self.read(response).await;
            }
        }
        Ok(())
    }

    /// Takes the headers out of the request; [`Self::unsent`] puts them back. HTTP/2 does not give them back once they were written, and
    /// yet they may be wanted again.
    fn message(&mut self, spoken: Spoken) -> Message {
        let target = &self.request.target;
        let mut message = Request::new(Full::new(self.request.body.clone()));
        *message.method_mut() = self.request.method.clone();
        let may_be_refused = spoken == Spoken::Http2 && !self.resent;
        let mut headers: HeaderMap =
            if may_be_refused { self.request.headers.clone() } else { std::mem::take(&mut self.request.headers) };
        if spoken == Spoken::Http2 {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(target.scheme.clone());
            parts.authority = Some(target.authority.clone());
            parts.path_and_query = Some(self.request.path_and_query.clone());
            *message.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all there");
            headers.remove(HOST);
        } else {
            *message.uri_mut() = Uri::from(self.request.path_and_query.clone());
            headers.insert(HOST, target.host_header.clone());
        }
        *message.headers_mut() = headers;
        message
    }

    fn unsent(&mut self, mut error: TrySendError<Message>) -> Unsent {
        let message = error.take_message();
        let unwritten = message.is_some();
        if let Some(message) = message {
            self.request.headers = message.into_parts().0.headers;
        }
        Unsent { fault: Fault::from(error.error()), unwritten, unprocessed: is_unprocessed(error.error()) }
    }

    /// Reads the body up to the cap. However it ends, the head has come.
    async fn read(&mut self, response: Response<Incoming>) {
        let (head, mut body) = response.into_parts();
        self.head = Some(head);
        let cap = self.max_response;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return };
            let Ok(data) = frame.into_data() else { continue };
            let room = cap - self.response.bytes.len();
            let taken = self.response.extend(&self.inner.responses, &data[..data.len().min(room)]);
            if data.len() > taken {
                return;
            }
        }
        self.response_complete = true;
    }

    /// Bytes that a response may have on the wire.
    fn allowance(&self) -> usize {
        MAX_RESPONSE_HEAD + CHUNKED_OVERHEAD * self.max_response + H2_STREAM_WINDOW as usize
    }

    fn keep(&self, mut connection: Http1) {
        let key = self.request.target.key;
        if connection.sender.is_closed() {
            return;
        }
        if connection.sender.is_ready() {
            self.inner.pool.checkin(key, connection);
            return;
        }
        // Its driver has not come round yet, or the server answered before it had read the request.
        let pool = Arc::clone(&self.inner.pool);
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, connection.sender.ready()).await {
                pool.checkin(key, connection);
            }
        });
    }
}

/// What is kept of a response's body, with its share of what all may keep.
#[derive(Default)]
pub(in crate::egress) struct Kept {
    bytes: BytesMut,
    room: Option<OwnedSemaphorePermit>,
}

impl Kept {
    /// Takes as much as there is room for; answers how much that is.
    pub(in crate::egress) fn extend(&mut self, room: &Arc<Semaphore>, data: &[u8]) -> usize {
        let wanted = data.len().min(room.available_permits());
        let permits = u32::try_from(wanted).ok().and_then(|wanted| room.clone().try_acquire_many_owned(wanted).ok());
        let Some(permits) = permits else { return 0 };
        match &mut self.room {
            Some(room) => room.merge(permits),
            None => self.room = Some(permits),
        }
        self.bytes.extend_from_slice(&data[..wanted]);
        wanted
    }

    /// The bytes; their room is free again once the last copy of them is gone.
    pub(in crate::egress) fn freeze(self) -> Bytes {
        if self.bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// No response came.
struct Unsent {
    fault: Fault,
    /// Whether it is certain that nothing of the request was written.
    unwritten: bool,
    /// Whether the server said that it did nothing with the request.
    unprocessed: bool,
}

/// Retires its connection unless it is settled.
struct Doubt<'a>(Option<&'a super::super::pool::Http2>);

impl Doubt<'_> {
    fn settle(mut self) {
        self.0 = None;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.retire();
        }
    }
}
